"""The command line of the store: `eventstore migrate`, `eventstore verify` and the others."""

from __future__ import annotations

from eventstore.cli.app import main

__all__ = ["main"]
