"""The testing kit's proxy; in a run with a pooler it stands between the store and the pooler."""

from __future__ import annotations

from eventstore.testing.proxy import Proxy, run_proxy, url_through

__all__ = ["Proxy", "run_proxy", "url_through"]
