"""The log: what is recorded, how it is appended, how it is read back."""
