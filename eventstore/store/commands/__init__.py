"""
The commands and queries of one user, one module for each entity.

A command is defined once: called on a user it is written at once, called in a transaction it is
recorded and written when the block ends (`unit_of_work`).
"""
