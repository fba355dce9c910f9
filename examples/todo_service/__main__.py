"""
Start the service: `python -m examples.todo_service`.

It uses the database in EVENTSTORE_DATABASE_URL (after `eventstore migrate`), or else a PostgreSQL
in your data folder, which comes from a wheel.
"""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

import uvicorn

from .app import URL, app


def main() -> None:
    # By force, because the MCP SDK has set up its own format.
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", force=True)
    logging.getLogger(__package__).setLevel(logging.INFO)
    at = urlsplit(URL)
    print(f"Chat at {URL}", flush=True)
    uvicorn.run(app, host=at.hostname or "127.0.0.1", port=at.port or 80, log_level="warning")


if __name__ == "__main__":
    main()
