"""What runs the own tests of an SDK with ours in place: `just sdk-tests`, `just mcp-sdk-tests`."""
