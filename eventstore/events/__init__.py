"""The vocabulary: every event that can happen to a task, a conversation, a message, a tool call."""
