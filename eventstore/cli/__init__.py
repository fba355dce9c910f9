"""The command line of the store: `eventstore migrate`, `eventstore verify` and the others."""

from __future__ import annotations

import sys

from eventstore.version import VERSION

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit the process with its status."""
    if sys.argv[1:] == ["--version"]:  # the only answer that needs nothing else to be imported
        sys.stdout.write(VERSION + "\n")
        sys.exit()
    from eventstore.cli import app  # noqa: PLC0415 - see above

    app.main()
