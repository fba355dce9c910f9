"""
Run the benchmarks: `uv run python -m benchmarks [--quick] [--only NAME] [--json]`.

Starts a temporary PostgreSQL, measures, prints one table (or one JSON object) and stops the server
again. Progress goes to standard error, one line per benchmark, because a spinner would take CPU
time from the measured code.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator

from benchmarks import append, chain, growth, guessing, history, lookups, rebuild
from benchmarks.measure import Figure
from benchmarks.report import Report, as_json, print_table
from benchmarks.server import Server, run_server

_BENCHMARKS: dict[str, Callable[..., Iterator[Figure]]] = {
    "append": append.figures,
    "chain": chain.figures,
    "history": history.figures,
    "rebuild": rebuild.figures,
    "growth": growth.figures,
    "guessing": guessing.figures,
    "lookups": lookups.figures,
}


def main() -> None:
    """Run the chosen benchmarks and print their figures."""
    arguments = _parse_arguments()
    # An exception, unlike the default action of SIGTERM, also stops the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start = time.monotonic()
    names = [arguments.only] if arguments.only else list(_BENCHMARKS)
    with run_server() as server:
        figures = [one for name in names for one in _measure(name, server, arguments.quick)]
        version = server.version()
    report = Report(figures, version, arguments.quick, time.monotonic() - start)
    if arguments.json:
        print(json.dumps(as_json(report), indent=2))
    else:
        print_table(report)


def _measure(name: str, server: Server, quick: bool) -> list[Figure]:
    start = time.monotonic()
    print(f"{name} …", end=" ", file=sys.stderr, flush=True)
    figures = list(_BENCHMARKS[name](server, quick=quick))
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    return figures


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="use smaller sizes; takes under 30 seconds"
    )
    parser.add_argument(
        "--only",
        choices=_BENCHMARKS,
        metavar="NAME",
        help=f"run one benchmark: {', '.join(_BENCHMARKS)}",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of the table"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
