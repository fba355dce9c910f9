"""`eventstore demo`: the story it tells, step by step."""
