"""Requests of many users are answered once, although the service is killed meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.service_load import Service, run_load
from tests.support.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("service")]


def test_requests_are_answered_once_although_the_service_is_killed(
    server: Server, service: Service, service_database: str
) -> None:
    load = run_load(service, server.direct(service_database), users=8, each=2, kills=1)

    figures = asyncio.run(load)

    assert not figures.problems
    assert (figures.kills, figures.requests, len(figures.waited)) == (1, 16, 16)
    assert figures.sent > figures.requests + figures.repeated
    assert figures.looks
