"""
Apply row changes: by SQL in an append's transaction (`live`), or in memory (`replay`).

`table_shape` and `column_types` say which tables and values can be kept so that both give the same
rows; `statements` writes a row change as SQL.
"""
