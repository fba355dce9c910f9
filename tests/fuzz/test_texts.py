"""Exports and settings of any content are taken, or refused by a typed error that names them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import ConfigurationError, EventStore, EventStoreError
from eventstore.database.settings import Settings, load_settings
from eventstore.imports.formats import Branches, read_conversation
from tests.fuzz.values import POSSIBLE_ARGUMENTS, any_json, hostile
from tests.imports.samples import CHATGPT, CLAUDE, OPEN_WEBUI, RESPONSES
from tests.support.erasing import all_rows
from tests.support.properties import examples


@pytest.mark.parametrize("store", ["sync"], indirect=True)
@pytest.mark.parametrize(
    "sample",
    [CHATGPT, CLAUDE, OPEN_WEBUI, RESPONSES],
    ids=["chatgpt", "claude", "open_webui", "responses"],
)
def test_an_export_with_any_other_value_in_it_is_imported_or_named(
    store: EventStore, admin: psycopg.Connection, sample: dict[str, Any]
) -> None:
    @examples(60)
    @given(any_json(sample), st.sampled_from(Branches))
    def try_one(value: object, branches: Branches) -> None:
        before = all_rows(admin)
        try:
            conversations = list(read_conversation(value, branches=branches))
        except EventStoreError:
            return
        imported = store.import_conversations([("alice", one) for one in conversations])
        if imported.events == 0:
            assert all_rows(admin) == before

    try_one()

    assert store.verify().ok


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_of_any_value_is_taken_or_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    variable = f"EVENTSTORE_{name.upper()}"

    @examples(10)
    @given(st.sampled_from(POSSIBLE_ARGUMENTS), hostile())
    def try_one(text: str, value: object) -> None:
        monkeypatch.setenv(variable, text)
        overrides: Any
        for overrides in ({}, {name: value}):
            try:
                load_settings(**overrides)
                refused = ""
            except ConfigurationError as error:
                refused = str(error)
            assert variable in refused or not refused

    try_one()
