"""
Pages: so many rows, and no more of them than fit into memory.

Rows may be large: a tool's output has megabytes. So a page ends at a number of rows or at a number
of bytes, whichever comes first, and has one row at least.

How large a value is, PostgreSQL knows without reading it, unless it is compressed. Compressed ones
are read to be measured, but only those of rows that fit as they are stored: a page's measuring is
bounded too, whatever follows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eventstore.database.plan import Rows

__all__ = ["PAGE_BYTES", "PAGE_ROWS", "page_of", "page_query", "size_of"]

PAGE_ROWS = 5_000
PAGE_BYTES = 8 * 1024 * 1024


def page_query(columns: str, table: str, where: str, order: str, large: Sequence[str]) -> str:
    """
    Return the query of one page, to be read with `page_of`.

    :param columns: what to select; it is evaluated for the page's own rows alone.
    :param where: where the page begins, after the one before it.
    :param order: the columns of an index, in which the rows come.
    :param large: the columns that may be large.
    """
    stored = _sum(f"coalesce(pg_column_size({name}), 0)" for name in large)
    size = size_of(large)
    so_far = f"over (order by {order} rows unbounded preceding)"
    return f"""
select {columns}, eventstore_page_bytes
from (
    select *, sum({size}) {so_far} as eventstore_page_bytes
    from (
        select *, sum({stored}) {so_far} as eventstore_stored_bytes
        from {table}
        where {where}
        order by {order}
        limit {PAGE_ROWS}
    ) as stored
    where eventstore_stored_bytes - ({stored}) < {PAGE_BYTES}
) as page
where eventstore_page_bytes - ({size}) < {PAGE_BYTES}
order by {order}
"""


def page_of(rows: Rows) -> tuple[Rows, bool]:
    """Return the rows that `page_query` asked for, and whether more may follow."""
    more = bool(rows) and (len(rows) == PAGE_ROWS or rows[-1][-1] >= PAGE_BYTES)
    return [row[:-1] for row in rows], more


def size_of(columns: Sequence[str]) -> str:
    """Return the SQL of how many bytes some columns of a row are when they are read."""
    return _sum(
        f"case when pg_column_compression({name}) is null"
        f" then coalesce(pg_column_size({name}), 0) else octet_length({name}::text) end"
        for name in columns
    )


def _sum(sizes: Iterable[str]) -> str:
    return " + ".join(sizes) or "0"
