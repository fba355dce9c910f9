"""
The vocabulary: every event that can happen to a task, a conversation, a message or a tool call.

`event` says what an event is, `registry` finds the class that reads a stored one, and the modules
named after the entities define the built-in events together with the decisions that lead to them.
"""
