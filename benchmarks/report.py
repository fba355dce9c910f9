"""Print the figures: one table for people, or one JSON object for programs."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Figure, Samples, percentile

__all__ = ["Report", "as_json", "print_table"]


@dataclass(frozen=True, slots=True)
class Report:
    """One run of the benchmarks."""

    figures: Sequence[Figure]
    server_version: str
    quick: bool
    seconds: float


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as one JSON object; times are seconds."""
    return {
        "server_version": report.server_version,
        "python": platform.python_version(),
        "psycopg": psycopg.__version__,
        "quick": report.quick,
        "seconds": round(report.seconds, 1),
        "figures": [_figure(one) for one in report.figures],
    }


def _figure(figure: Figure) -> dict[str, Any]:
    low, high = _spread(figure)
    return {
        "name": figure.name,
        "floor_name": figure.floor_name,
        "rounds": len(figure.measured),
        "operations": sum(len(samples.seconds) for samples in figure.measured),
        "floor": _times(figure.floor),
        "ours": _times(figure.measured) | {"cpu_seconds": figure.cpu_seconds},
        "ratio": figure.ratio,
        "ratio_low": low,
        "ratio_high": high,
        "quiet_ratio": figure.quiet_ratio,
        f"{figure.item}_per_second": figure.items_per_second,
    }


def _times(rounds: Sequence[Samples]) -> dict[str, float]:
    return {"p50_seconds": percentile(rounds, 50), "p95_seconds": percentile(rounds, 95)}


def _spread(figure: Figure) -> tuple[float, float]:
    """Return the quartiles of the ratios of all rounds, which show how stable the median is."""
    low, _, high = quantiles(figure.ratios, n=4, method="inclusive")
    return low, high


def print_table(report: Report) -> None:
    """Print the table; a narrow terminal folds the names, and a pipe gets full lines."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=170)
    table = Table(
        title=f"PostgreSQL {report.server_version}, Python {platform.python_version()},"
        f" psycopg {psycopg.__version__}; {report.seconds:.0f} s",
        caption="times in milliseconds, p50 / p95; ratio: store by floor, median (quartiles) of the"
        " rounds; quiet: ratio at p10; CPU: of the client, for one operation",
    )
    for heading in ("figure", "floor"):
        table.add_column(heading, overflow="fold")
    for heading in ("floor p50 / p95", "store p50 / p95", "CPU", "per second", "ratio", "quiet"):
        table.add_column(heading, justify="right", no_wrap=True)
    for figure in report.figures:
        table.add_row(*_row(figure))
    console.print(table)


def _row(figure: Figure) -> tuple[str, ...]:
    low, high = _spread(figure)
    return (
        figure.name,
        figure.floor_name,
        _pair(figure.floor),
        _pair(figure.measured),
        _milliseconds(figure.cpu_seconds),
        f"{figure.items_per_second:,.0f} {figure.item}",
        f"{figure.ratio:.2f} ({low:.2f}-{high:.2f})",
        f"{figure.quiet_ratio:.2f}",
    )


def _pair(rounds: Sequence[Samples]) -> str:
    return f"{_milliseconds(percentile(rounds, 50))} / {_milliseconds(percentile(rounds, 95))}"


def _milliseconds(seconds: float) -> str:
    value = seconds * 1000
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
