"""The commands that show what the log of one user holds; `cli.app` registers them."""
