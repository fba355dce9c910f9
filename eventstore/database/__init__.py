"""
Access to PostgreSQL, without any knowledge of events.

Settings say which database. A plan yields batches of statements, a driver runs each batch as one
pipeline on a pooled connection, and every transaction enters a scope: a role and a user.
"""
