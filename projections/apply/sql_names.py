"""Names that SQL takes without quotes."""

from __future__ import annotations

import re

__all__ = ["is_plain"]


def is_plain(name: str) -> bool:
    """
    Tell whether a schema, table or column of this name needs no quotes, and is not cut.

    :param name: PostgreSQL folds a name without quotes to lower case and cuts it at 63 bytes.
    """
    return (
        bool(_FORM.fullmatch(name))
        and len(name.encode()) <= _MAX_BYTES
        and name == name.lower()
        and name not in _WORDS
    )


_FORM = re.compile(r"[^\W\d][\w$]*")
_MAX_BYTES = 63
_RESERVED = """
all analyse analyze and any array as asc asymmetric authorization binary both case cast check
collate collation column concurrently constraint create cross current_catalog current_date
current_role current_schema current_time current_timestamp current_user default deferrable desc
distinct do else end except false fetch for foreign freeze from full grant group having ilike in
initially inner intersect into is isnull join lateral leading left like limit localtime
localtimestamp natural not notnull null offset on only or order outer overlaps placing primary
references returning right select session_user similar some symmetric system_user table tablesample
then to trailing true union unique user using variadic verbose when where window with
"""
_WORDS = frozenset(_RESERVED.split())
"""Reserved in PostgreSQL 15 to 18: `pg_get_keywords()`, categories R and T."""
