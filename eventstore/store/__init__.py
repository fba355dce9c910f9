"""
The facade: what a service calls. The package `eventstore` exports it.

`store` opens a database and hands out users, `user` is everything about one user, `commands` holds
one module for each entity, `units` writes what a command or a transaction recorded, and `turns`
answers requests.
"""
