"""The example service in a process of its own, on the database of a test, and a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from benchmarks.service_load import Service
from tests.support.server import Server

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def service_database(server: Server) -> Iterator[str]:
    """The URL of a database that the tests of a module share, because the service starts slowly."""
    url = server.create_database()
    yield url
    server.drop_database(url)


@pytest.fixture(scope="module")
def service(service_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(service_database, tmp_path_factory.mktemp("service") / "log")
    try:
        service.start()
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None and os.environ.get("EVENTSTORE_TEST_SKIP") != "never":
        pytest.skip("needs Debian's package chromium")
    with sync_playwright() as playwright:
        # The sandbox refuses to run as root, and the only pages are the service's.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, service: Service) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=service.url)
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def name() -> str:
    """A user whom no other test has."""
    return f"alice {uuid4()}"


@pytest.fixture
def page(context: BrowserContext, name: str) -> Page:
    """A page of a browser in which a user has logged in."""
    page = context.new_page()
    page.goto("/")
    page.fill("input[name=name]", name)
    page.click("text=Log in")
    return page
