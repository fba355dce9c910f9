"""
Pages: so many rows, and no more of them than fit into memory.

Rows may be large: a tool's output has megabytes. So a page ends at a number of rows or at a number
of bytes, whichever comes first, and has one row at least. Bytes are counted as they are stored,
which PostgreSQL knows without reading them; compressed text is a few times longer.
"""

from __future__ import annotations

from collections.abc import Iterable

from eventstore.database.plan import Rows

__all__ = ["PAGE_BYTES", "PAGE_ROWS", "page_of", "page_query", "stored_bytes"]

PAGE_ROWS = 5_000
PAGE_BYTES = 4 * 1024 * 1024


def page_query(columns: str, table: str, where: str, order: str, large: Iterable[str]) -> str:
    """
    Return the query of one page, to be read with `page_of`.

    :param columns: what to select; only the page's own rows are read for it.
    :param where: where the page begins, after the one before it.
    :param order: the columns of an index, in which the rows come.
    :param large: the columns that may be large.
    """
    size = stored_bytes(large)
    return f"""
select {columns}, eventstore_page_bytes
from (
    select *, sum({size}) over (order by {order} rows unbounded preceding) as eventstore_page_bytes
    from {table}
    where {where}
    order by {order}
    limit {PAGE_ROWS}
) as page
where eventstore_page_bytes - ({size}) < {PAGE_BYTES}
order by {order}
"""


def page_of(rows: Rows) -> tuple[Rows, bool]:
    """Return the rows that `page_query` asked for, and whether more may follow."""
    more = bool(rows) and (len(rows) == PAGE_ROWS or rows[-1][-1] >= PAGE_BYTES)
    return [row[:-1] for row in rows], more


def stored_bytes(columns: Iterable[str]) -> str:
    """Return the SQL of how many bytes the columns of a row take; their values are not read."""
    return " + ".join(f"coalesce(pg_column_size({name}), 0)" for name in columns) or "0"
