"""One module per command of `eventstore`; `cli.app` puts them together."""
