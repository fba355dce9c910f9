"""
What an administrator does to whole logs: verify, erase, export.

`plans` is the door to this room and to the rebuild of read models. Each log is worked on in the
scope of its own user.
"""
