"""Findings: what the doctor reports about a database, each with its location and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Severity"]

type Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing in a database that should be different.

    :ivar severity: `error` if the store refuses to connect, `warning` if it connects anyway.
    :ivar check: what was checked: `schema`, `server`, `login`, `role`, `table`, `rights`,
        `reading`, `trigger`, `view` or `function`.
    :ivar location: the role, table, setting or function.
    """

    severity: Severity
    check: str
    location: str
    detail: str
    remedy: str
