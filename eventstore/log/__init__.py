"""
The log: what an event looks like when it is recorded, how events are appended, and how they are
read back.

`append_request` checks and encodes, `append` writes, `read` reads. `hash_chain` and `anchors` are
the evidence that recorded history was not changed.
"""
