"""A todo chatbot: FastAPI, an MCP server and an agent of the OpenAI Agents SDK in one process."""
