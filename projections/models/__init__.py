"""
The built-in read models: one module per entity, with its table, its view and its projector.

The tables are SQLModel classes to query in `user.session()`, where row-level security shows one
user's rows. Never write to them: `verify` would report it and `rebuild` would undo it.
"""
