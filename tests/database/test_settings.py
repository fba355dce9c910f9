"""A setting that is misspelt or does not fit is named, with what to write, wherever it is given."""

from __future__ import annotations

from typing import Any

import pytest

from eventstore import ConfigurationError, EventStore, Settings
from eventstore.database.settings import load_settings, unknown_settings
from tests.support.drivers import open_store

REFUSED: list[tuple[str, object, str]] = [
    ("pool_max_size", 0, "EVENTSTORE_POOL_MAX_SIZE: Input should be greater than or equal to 1"),
    ("pool_max_size", "many", "EVENTSTORE_POOL_MAX_SIZE: Input should be a valid integer"),
    ("pool_min_size", 11, "EVENTSTORE_POOL_MIN_SIZE: 11 is more than EVENTSTORE_POOL_MAX_SIZE"),
    ("deadline_seconds", "nan", "EVENTSTORE_DEADLINE_SECONDS: Input should be"),
    ("deadline_seconds", 0, "EVENTSTORE_DEADLINE_SECONDS: Input should be greater than 0"),
    ("max_idle_seconds", -1, "EVENTSTORE_MAX_IDLE_SECONDS: Input should be greater than 0"),
    ("search_path", "a; drop", "EVENTSTORE_SEARCH_PATH: String should match"),
    ("eraser_role", "eventstore_app", "the three roles need three names"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_a_value_that_does_not_fit_is_refused_with_its_name(
    name: str, value: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Settings(**{name: value})
    with pytest.raises(ConfigurationError, match=message):
        load_settings(**{name: value})

    monkeypatch.setenv(f"EVENTSTORE_{name.upper()}", str(value))
    for connect in (Settings, load_settings, EventStore.connect):
        with pytest.raises(ConfigurationError, match=message):
            connect()


def test_an_argument_that_is_no_setting_is_refused_with_the_nearest_one() -> None:
    wrong: dict[str, Any] = {"pool_maxsize": 3}

    with pytest.raises(ConfigurationError, match=r"MAXSIZE is no setting; did you mean .*MAX_SIZE"):
        Settings(**wrong)


def test_a_refusal_does_not_repeat_a_password() -> None:
    wrong: dict[str, Any] = {"database_url": b"postgresql://u:secret@host/db\xff"}

    with pytest.raises(ConfigurationError, match="EVENTSTORE_DATABASE_URL") as refused:
        Settings(**wrong)

    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_settings_that_are_none_are_refused(driver: str) -> None:
    wrong: Any = {"pool_max_size": 3}
    opening = open_store(driver, settings=wrong)

    with pytest.raises(ConfigurationError, match="settings: a dict; give Settings"), opening:
        pass


@pytest.mark.parametrize(
    "name", ["EVENT_STORE_DATABASE_URL", "EVENTSTOR_POOL_MAX_SIZE", "eventsore_deadline_seconds"]
)
def test_a_variable_whose_prefix_is_misspelt_is_named(name: str) -> None:
    (warning,) = unknown_settings({name: "1"})

    assert warning.startswith(f"{name} is no setting of the store and has no effect; did you mean")


def test_variables_of_other_programs_are_not_warned_about() -> None:
    others = ["DATABASE_URL", "EVENTS_DATABASE_URL", "SEARCH_PATH", "STORE_POOL_MAX_SIZE", "PATH"]

    assert list(unknown_settings(dict.fromkeys(others, "1"))) == []
