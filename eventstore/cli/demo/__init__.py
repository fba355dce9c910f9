"""`eventstore demo`: a demonstration of the store, step by step."""
