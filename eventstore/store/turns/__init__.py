"""
Turns: one request of a user, answered once, whoever retries it.

`plans` says what a turn does, and `block` is the `with` block that runs one, sync and async.
"""
