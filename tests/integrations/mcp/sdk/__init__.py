"""The MCP SDK's own tests of its server, run with ours in it: `just mcp-sdk-tests`."""
