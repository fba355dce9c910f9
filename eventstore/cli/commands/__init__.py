"""The commands of `eventstore`, mostly one module each; `cli.app` registers them."""
