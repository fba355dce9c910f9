"""Findings: what the doctor says of a database, each with its place and its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Severity"]

type Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that is not as it should be.

    :ivar severity: `error`: the store does not connect; `warning`: it does.
    :ivar check: what was looked at: `schema`, `server`, `login`, `role`, `table`, `rights`,
        `reading`, `trigger`, `view` or `function`.
    :ivar place: the role, table, setting or function.
    """

    severity: Severity
    check: str
    place: str
    detail: str
    remedy: str
