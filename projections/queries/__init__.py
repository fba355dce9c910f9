"""What a service reads: lists, histories, and the trail of tool calls."""
