"""
What the store's schema is, and whether a server has it.

`migrate` creates and upgrades the schema with the scripts in `migrations/`. `doctor` reads the
server's catalog and reports what differs from it, and what else would weaken isolation, evidence or
durability.
"""
