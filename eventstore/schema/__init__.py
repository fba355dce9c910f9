"""
The database schema of the store, and the checks of a database against it.

`migrate` creates and upgrades the schema with the scripts in `migrations/`. `doctor` reads the
system catalog of a server and reports every difference from the schema, and whatever else weakens
isolation, evidence or durability.
"""
