"""The example service as a person sees it, in a real browser."""

from __future__ import annotations

import signal
import time
from contextlib import AbstractContextManager

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from benchmarks.service_load import Service
from eventstore import EventStore

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("service")]


def say(page: Page, text: str) -> None:
    page.fill("input[name=text]", text)
    send(page)


def send(page: Page) -> None:
    """Send the form, and wait for the page that follows the answer."""
    with page.expect_navigation():
        page.click("text=Send")


def listed(page: Page, name: str) -> list[str]:
    return page.locator(f"#{name} li").all_inner_texts()


def test_what_is_said_changes_the_tasks(page: Page) -> None:
    say(page, "add milk, <b>bread</b>")
    say(page, "done milk")

    assert listed(page, "tasks") == ["☑ milk", "☐ <b>bread</b>"]
    assert listed(page, "messages")[-3:] == [
        "done milk",
        'complete_task({"title":"milk"})',
        "Completed “milk”.",
    ]


def test_an_answer_is_streamed_and_a_page_without_scripts_works_too(
    browser: Browser, context: BrowserContext, page: Page, service: Service
) -> None:
    requests: list[str] = []
    page.on("request", lambda one: requests.append(f"{one.method} {one.url}"))
    say(page, "add milk")

    plain = browser.new_context(
        base_url=service.url, java_script_enabled=False, storage_state=context.storage_state()
    )
    with plain.new_page() as form:
        form.goto("/chats/todo")
        say(form, "done milk")
        assert listed(form, "messages")[-1] == "Completed “milk”."
    plain.close()

    assert f"POST {service.url}/api/chats/todo/stream" in requests
    assert f"POST {service.url}/chats/todo" not in requests


def test_a_streamed_answer_comes_again_under_its_key_and_a_broken_one_is_finished(
    context: BrowserContext, page: Page, service: Service
) -> None:
    assert page.url.endswith("/chats/todo")  # logged in
    token = context.cookies()[0]["value"]
    url = f"{service.url}/api/chats/streamed/stream"

    def ask(client: httpx.Client, text: str, key: str) -> AbstractContextManager[httpx.Response]:
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
        return client.stream("POST", url, headers=headers, json={"text": text})

    def answer(client: httpx.Client, text: str, key: str) -> str:
        while True:
            with ask(client, text, key) as response:
                if response.status_code != 409:  # its first attempt is still being ended
                    assert response.status_code == 200
                    return "".join(response.iter_text())
                time.sleep(0.1)

    with httpx.Client(timeout=60) as client:
        with ask(client, "add bread", "gone"):
            pass  # the connection is closed before the answer is there
        assert answer(client, "add bread", "gone") == "Added “bread”."
        for _ in range(2):
            assert answer(client, "add milk, eggs", "one") == "Added “milk”. Added “eggs”."

    page.reload()
    assert listed(page, "tasks") == ["☐ bread", "☐ milk", "☐ eggs"]


def test_item_call_and_event_are_joined_by_one_id(
    page: Page, name: str, service_database: str
) -> None:
    say(page, "add milk")
    page.click("text=Audit")

    ((call_id, item, call, caused),) = [
        row.locator("td").all_inner_texts() for row in page.locator("#audit tr").all()[1:]
    ]
    with EventStore.connect(service_database) as store:
        alice = store.user(name)
        requested, served = (alice.tool_calls.find(one, call_id) for one in ("todo", "mcp"))
        message = next(one for one in alice.history("todo") if one.id == requested.message_id)
        created = alice.events(types=["TaskCreated"])
    assert message.body["call_id"] == call_id
    assert item == f'#{message.position} add_task({{"title":"milk"}})'
    assert (requested.status, served.status) == ("succeeded", "succeeded")
    assert call.startswith(f"#{served.position} succeeded")
    assert f"#{created[0].position} TaskCreated" in caused
    assert created[0].causation_id == served.id


def test_a_form_that_is_sent_twice_is_one_request(context: BrowserContext, page: Page) -> None:
    key = page.get_attribute("input[name=key]", "value")
    form: dict[str, str | float | bool] = {"text": "add milk", "key": str(key)}

    for _ in range(2):
        assert context.request.post("/chats/todo", form=form).ok

    page.reload()
    assert listed(page, "tasks") == ["☐ milk"]
    assert len(listed(page, "messages")) == 3


def test_another_text_under_the_key_of_one_that_was_sent_comes_back_with_a_key_of_its_own(
    context: BrowserContext, page: Page
) -> None:
    key = str(page.get_attribute("input[name=key]", "value"))
    sent = [
        context.request.post("/chats/todo", form={"text": text, "key": key})
        for text in ("add milk", "add bread")
    ]

    assert [one.status for one in sent] == [200, 409]
    assert 'value="add bread"' in sent[1].text()
    assert f'value="{key}"' not in sent[1].text()
    page.reload()
    assert listed(page, "tasks") == ["☐ milk"]


def test_nobody_sees_what_another_one_has(browser: Browser, page: Page, service: Service) -> None:
    say(page, "add milk")

    other = browser.new_context(base_url=service.url)
    bobs = other.new_page()
    bobs.goto("/chats/todo")
    assert bobs.url.endswith("/login")
    bobs.fill("input[name=name]", "bob")
    bobs.click("text=Log in")

    assert (listed(bobs, "tasks"), listed(bobs, "messages")) == ([], [])
    bobs.goto("/chats/todo/audit")
    assert bobs.locator("#audit tr").count() == 1
    other.close()


def test_a_cookie_that_was_not_signed_here_is_nobodys(
    context: BrowserContext, page: Page, service: Service
) -> None:
    (cookie,) = context.cookies()
    name, _, signature = cookie["value"].partition(".")
    assert name
    forged = {"name": cookie["name"], "value": f"Ym9i.{signature}", "url": service.url}
    context.add_cookies([forged])  # type: ignore[list-item]  # a part of what a cookie may have

    page.goto("/chats/todo")

    assert page.url.endswith("/login")


def test_a_chat_goes_on_after_the_process_was_killed(page: Page, service: Service) -> None:
    say(page, "add milk")
    service.stop(signal.SIGKILL)
    service.start()

    say(page, "done milk")

    assert listed(page, "tasks") == ["☑ milk"]


def test_what_could_not_be_answered_is_sent_again_as_it_was(
    page: Page, name: str, service_database: str
) -> None:
    key = page.get_attribute("input[name=key]", "value")
    with EventStore.connect(service_database) as store:
        user = store.user(name)
        user.conversations.start(key="todo")
        with user.turn("todo", key="other", items=[{"role": "user", "content": "list"}]):
            say(page, "add milk")
            assert page.locator("[role=alert]").inner_text()
            assert page.input_value("input[name=text]") == "add milk"
            assert page.get_attribute("input[name=key]", "value") == key

    send(page)

    assert listed(page, "tasks") == ["☐ milk"]
