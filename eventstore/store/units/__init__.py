"""
Units of work: what commands record, what they must read to decide, and the one append of it all.

`unit_of_work` commits, `decisions` and `moves` are steps that must read before they know their
event, `item_events` makes the events of an item, `outcome` is what a commit did and what a command
returns, `commands` runs one command by itself, and `transaction` is the caller's `with` block.
"""
