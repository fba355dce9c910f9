"""The command line: `eventstore demo | migrate | status | import | history | tasks | …`."""

from __future__ import annotations

from eventstore.cli.app import main

__all__ = ["main"]
