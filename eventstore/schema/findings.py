"""Findings: the reports of the doctor about a database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Severity"]

type Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One fault of a database, and its remedy.

    :ivar severity: `error` if the store refuses to connect, `warning` if it connects anyway.
    :ivar check: the kind of check that found it: `schema`, `server`, `login`, `role`, `table`,
        `rights`, `reading`, `trigger`, `view` or `function`.
    :ivar location: the role, table, setting or function that has the fault.
    :ivar detail: the fault; read it after the location, as in `eventstore.task: is not logged`.
    :ivar remedy: what to do about it.
    """

    severity: Severity
    check: str
    location: str
    detail: str
    remedy: str
