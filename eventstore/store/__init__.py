"""
The facade: what a service calls. The package `eventstore` exports it.

`store` opens a database and hands out users, `user` is everything about one user, and one module
per entity holds its commands and queries. A command is defined once: called on a user it is written
at once, called in a transaction it is recorded and written when the block ends (`unit_of_work`).
"""
