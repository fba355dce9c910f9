"""
Pages of rows that are bounded in number and in bytes.

A row may be large, because the output of a tool may have megabytes. So a page ends after
`PAGE_ROWS` rows or `PAGE_BYTES` bytes, whichever comes first, and it has one row at least.

PostgreSQL knows the size of a value without reading it, unless the value is compressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eventstore.database.plan import Rows

__all__ = ["PAGE_BYTES", "PAGE_ROWS", "page_of", "page_query", "size_of"]

PAGE_ROWS = 2_000
"""Their values are read in one go, in some 20 milliseconds, and no other task runs meanwhile."""
PAGE_BYTES = 8 * 1024 * 1024
"""The row that reaches this size is the last of its page, so a page may be larger by one row."""


def page_query(columns: str, table: str, where: str, order: str, large: Sequence[str]) -> str:
    """
    Return the SQL that selects one page; read its rows with `page_of`.

    All parameters but the last are SQL text.

    :param columns: the select list, which is evaluated for the rows of the page alone.
    :param where: the condition for the rows that follow the page before.
    :param order: the order of the rows; its columns should lead an index.
    :param large: the names of the columns that may hold large values; only these are measured.
    :return: the SQL, whose last column is the bytes of the page up to each row.
    """
    stored = _sum(f"coalesce(pg_column_size({name}), 0)" for name in large)
    size = size_of(large)
    so_far = f"over (order by {order} rows unbounded preceding)"
    # A row belongs to the page if the rows before it are within the limit. Sizes as stored come
    # first, because a compressed value is read to be measured: no row of a later page must be.
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
    """
    Return the rows of a page, and whether more rows may follow.

    :param rows: what a query of `page_query` returned; its last column is taken off.
    """
    more = bool(rows) and (len(rows) == PAGE_ROWS or rows[-1][-1] >= PAGE_BYTES)
    return [row[:-1] for row in rows], more


def size_of(columns: Sequence[str]) -> str:
    """
    Return the SQL for the bytes that some columns of a row have once they are decompressed.

    :param columns: names of columns; a null counts as no bytes.
    """
    return _sum(
        f"case when pg_column_compression({name}) is null"
        f" then coalesce(pg_column_size({name}), 0) else octet_length({name}::text) end"
        for name in columns
    )


def _sum(sizes: Iterable[str]) -> str:
    return " + ".join(sizes) or "0"
