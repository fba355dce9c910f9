"""The commands of an administrator, mostly one module each; `cli.app` registers them."""
