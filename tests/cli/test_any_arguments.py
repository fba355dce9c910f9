"""A command takes any arguments, or refuses them in words and with a status."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from eventstore.cli.app import app
from tests.fuzz.values import POSSIBLE_ARGUMENTS
from tests.support.command import Command
from tests.support.properties import examples

GROUP: Any = typer.main.get_command(app)

# The demonstration starts a server of its own.
COMMANDS = sorted({*GROUP.list_commands(None)} - {"demo"})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_with_any_arguments_ends_with_a_status_and_no_traceback(
    eventstore: Command, command: str
) -> None:
    options = [
        option for parameter in GROUP.get_command(None, command).params for option in parameter.opts
    ]
    texts = st.sampled_from([*POSSIBLE_ARGUMENTS, "alice"])
    words = st.one_of(st.sampled_from(options), texts)

    @examples(6)
    @given(st.lists(words, max_size=4))
    def try_one(arguments: list[str]) -> None:
        answer = eventstore(command, *arguments)

        assert "Traceback" not in answer.stdout + answer.stderr
        assert answer.returncode in {0, 1, 2, 3}
        # Behind another option the word may be that one's value.
        if answer.returncode == 0 and arguments[:1] == ["--json"] and "--help" not in arguments:
            assert json.loads(answer.stdout) is not None

    try_one()
