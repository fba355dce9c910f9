"""
The fault suite: `uv run just faults [--faults N] [--kind NAME]… [--seed N] [--json]`.

Starts a server of its own with fsync, and for each kind of fault eight clients that write and read
while it happens N times. Prints one row a kind, and what must not be; status 1 if there is any.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import signal
import sys
from collections.abc import Iterable
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from eventstore.testing import run_server
from tests.faults.kinds import KINDS
from tests.faults.suite import Figures, run_kind
from tests.support.pooler import pooler_installed

_COLUMNS = (
    "faults",
    "acknowledged",
    "unknown",
    "refused",
    "reads",
    "lost",
    "doubled",
    "half-projected",
    "inconsistent",
    "late",
    "p50 ms",
    "p99 ms",
    "longest s",
)


def main() -> int:
    """Run the kinds that are asked for; return the exit status."""
    arguments = _parse_arguments()
    # An exception, unlike the default action of SIGTERM, also stops the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # What it logs is what was asked for: outages, and a login that may make them.
    logging.getLogger("eventstore").setLevel(logging.ERROR)
    kinds = arguments.kind or [
        name for name, kind in KINDS.items() if kind.through != "pooler" or pooler_installed()
    ]
    found: list[Figures] = []
    with run_server(durable=True) as server:
        for name in kinds:
            figures = run_kind(server, name, arguments.faults, arguments.seed)
            found.append(figures)
            print(f"{name}: {figures.faults} faults, {figures.acknowledged} acknowledged, "
                  f"{figures.seconds:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
    if arguments.json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        _print_table(found)
    for one in found:
        for problem in one.problems[:20]:
            print(f"{one.kind}: {problem}", file=sys.stderr)
    return 1 if any(one.problems for one in found) else 0


def _print_table(found: Iterable[Figures]) -> None:
    table = Table(title=None)
    table.add_column("kind")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(
            one.kind,
            *map(str, (one.faults, one.acknowledged, one.unknown, one.refused, one.reads, one.lost,
                       one.doubled, one.half_projected, sum(one.inconsistent.values()), one.late)),
            f"{one.p50 * 1000:.0f}", f"{one.p99 * 1000:.0f}", f"{one.longest:.1f}",
        )  # fmt: skip
    Console(width=180).print(table)
    print("seeds:", ", ".join(sorted({str(one.seed) for one in found})))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="just faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=20, help="of each kind; 20")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this; may be repeated")
    seed = random.SystemRandom().randrange(10**6)
    parser.add_argument("--seed", type=int, default=seed, help="of the clients and the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
