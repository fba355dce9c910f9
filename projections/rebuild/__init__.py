"""
Compare read models with a replay and repair what differs: for one user, or for all in parallel.

`rebuild` is the door; `compare` and `stored_rows` are also used by verify and export.
"""
