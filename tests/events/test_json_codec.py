"""The JSON codec reads every value back unchanged and refuses values without a JSON form."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import reduce
from types import MappingProxyType
from uuid import UUID

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventstore import NotStorable
from eventstore.events.json_codec import MAX_NESTING, Json, check_json, dumps, loads

_LETTERS = st.one_of(st.characters(), st.sampled_from('\0\ud800\udfff\u2028"\\/e1.'))
any_texts = st.text(_LETTERS)
# JSON reads a pair of surrogates as one character, so another test covers texts with pairs.
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
texts = any_texts.filter(lambda text: _PAIR.search(text) is None)
floats = st.floats(allow_nan=False, allow_infinity=False)
decimals = st.decimals(allow_nan=False, allow_infinity=False)
plain = st.none() | st.booleans() | st.integers() | floats | texts


def nested(leaves: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    """Generate `leaves` and lists and objects of them, nested in any way."""
    return st.recursive(
        leaves, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20
    )


def nest_empty(levels: int, kind: str) -> Json:
    """Return an empty list or object inside `levels - 1` others."""
    empty: Json = [] if kind == "list" else {}
    return reduce(
        lambda inner, _: [inner] if kind == "list" else {"in": inner}, range(levels - 1), empty
    )


def numbers_as_decimals(value: object) -> object:
    """Return `value` with every number replaced by the Decimal of its printed digits."""
    match value:
        case list():
            return [numbers_as_decimals(item) for item in value]
        case dict():
            return {key: numbers_as_decimals(item) for key, item in value.items()}
        case int() | float() | Decimal():
            return Decimal(str(value))
        case _:
            return value


@given(nested(plain))
@example("\0")
@example(["\udfff\ud800", {"\ud800": "\udfff"}])
@example([2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**400])
@example([Decimal("1.10"), Decimal("1e400"), Decimal("-1E-400"), Decimal("0.10000000000000001")])
@example([-0.0, 5e-324, 1.7976931348623157e308, 1e16, 1e22, 0.1, 1e-7])
@settings(deadline=None)
def test_a_written_value_is_read_back_equal(value: Json) -> None:
    text = dumps(check_json(value, "value"))

    assert loads(text) == value


@given(st.dictionaries(any_texts, any_texts))
@example({"\ud83d\ude00": "a\ud83d\ude00\ud83d"})
def test_a_pair_of_surrogates_becomes_the_character_it_encodes(
    value: dict[str, str],
) -> None:
    checked = check_json(value, "value")

    assert loads(dumps(checked)) == checked
    assert checked == {
        combine_surrogates(key): combine_surrogates(text) for key, text in value.items()
    }


def combine_surrogates(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@given(nested(plain))
@settings(deadline=None)
def test_a_value_that_was_read_is_written_as_the_same_text(value: Json) -> None:
    # Equality would miss 1 for 1.0 or True, 0.0 for -0.0 and another order of keys.
    text = dumps(value)

    assert dumps(loads(text)) == text


@given(nested(plain))
@settings(deadline=None)
def test_the_fast_and_the_exact_codec_read_the_same_value(value: Json) -> None:
    fast = loads(dumps(value))

    exact, _ = loads(dumps([value, "\ud800"]))  # a lone surrogate needs the exact codec

    assert repr(exact) == repr(fast)


@given(nested(decimals | floats | texts))
@settings(deadline=None)
def test_a_decimal_is_read_back_with_its_digits_wherever_it_occurs(value: Json) -> None:
    text = dumps(check_json(value, "value"))

    # 0.33 may be read as a float, which prints alike; 1.10 and 1e400 must stay decimals.
    assert numbers_as_decimals(loads(text)) == numbers_as_decimals(value)


@given(st.integers(-(2**70), 2**70))
@example(123_456_789_012_345_678)
def test_an_integer_is_never_rounded_wherever_it_occurs(number: int) -> None:
    read = loads(f'[{number},{{"a":{number} ,"b": {number}}},\t{number}]')

    assert read == [number, {"a": number, "b": number}, number]


@given(decimals)
@example(Decimal("1.10"))
@example(Decimal("1E+5"))
def test_a_number_keeps_all_its_written_digits(number: Decimal) -> None:
    read = loads(dumps([number]))[0]

    assert Decimal(str(read)) == number
    assert isinstance(read, int) or Decimal(str(read)).as_tuple() == number.as_tuple()


@pytest.mark.parametrize(
    "other", [Decimal("1.10"), 2**70, "\ud83e", "\udc4d\ud83d", {"\ud83e": 1}], ids=ascii
)
def test_only_what_utf_8_cannot_hold_is_escaped_whatever_stands_beside_it(other: Json) -> None:
    text = dumps(check_json({"für": "Milch für 🛒\x7f\u2028", "beside": other}, "value"))

    assert text.startswith('{"für":"Milch für 🛒\x7f\u2028","beside":')
    assert {*re.findall(r"\\u(....)", text)} <= {"d83e", "dc4d", "d83d"}


@given(texts)
def test_both_codecs_write_a_text_alike(text: str) -> None:
    assert dumps([text, 2**70]) == f"{dumps([text])[:-1]},{2**70}]"


def test_keys_keep_their_order() -> None:
    value = {"z": 1, "a": {"y": 2**64, "b": 1}, "m": Decimal("1.10"), "\ud800": 0}

    read = loads(dumps(check_json(value, "value")))

    assert list(read) == ["z", "a", "m", "\ud800"]
    assert list(read["a"]) == ["y", "b"]


@pytest.mark.parametrize("text", ['{"a":1,"b":2,"a":3}', '{"a":1.5,"b":2,"a":3}'])
def test_the_last_of_duplicate_keys_wins_in_both_codecs(text: str) -> None:
    read = loads(text)

    assert read == {"a": 3, "b": 2}


@pytest.mark.parametrize("kind", ["list", "object"])
def test_a_value_nested_to_the_limit_is_read_back(kind: str) -> None:
    value = nest_empty(MAX_NESTING, kind)

    read = loads(dumps(check_json(value, "value")))

    assert read == value
    assert loads(dumps([value, "\ud800"]))[0] == value


@pytest.mark.parametrize("kind", ["list", "object"])
def test_a_value_nested_beyond_the_limit_is_refused(kind: str) -> None:
    value = nest_empty(MAX_NESTING + 1, kind)

    with pytest.raises(NotStorable, match="nested deeper than 100 levels") as error:
        check_json(value, "output")

    assert error.value.path == "output" + ("[0]" if kind == "list" else ".in") * MAX_NESTING


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[object] = []
    value.append(value)

    with pytest.raises(NotStorable, match="nested deeper than 100 levels"):
        check_json(value, "output")


@pytest.mark.parametrize(
    "number",
    [float("nan"), float("inf"), float("-inf"), Decimal("NaN"), Decimal("sNaN"), Decimal("-inf")],
)
def test_a_number_that_json_cannot_hold_is_refused_and_its_path_named(number: object) -> None:
    value = {"items": ["a", {"price": number}]}

    with pytest.raises(NotStorable, match="is not a JSON number") as error:
        check_json(value, "output")

    assert error.value.path == "output.items[1].price"


class Odd(Enum):
    NAN = float("nan")
    INFINITE = [None, float("-inf")]  # noqa: RUF012 - the value of a member


@pytest.mark.parametrize("member", Odd)
def test_a_number_that_json_cannot_hold_is_refused_as_the_value_of_an_enum(member: Odd) -> None:
    with pytest.raises(NotStorable, match="is not a JSON number"):
        check_json({"none": None, "odd": member}, "output")


@pytest.mark.parametrize("key", [1, None, True, b"a", ("a",)])
def test_a_key_that_is_not_text_is_refused_and_its_path_named(key: object) -> None:
    value = {"items": [{key: "a"}]}

    with pytest.raises(NotStorable, match="is not text") as error:
        check_json(value, "output")

    assert error.value.path == "output.items[0]"


@pytest.mark.parametrize("value", [b"bytes", {"a", "set"}, 1j, object(), timedelta(1), type])
def test_a_type_without_a_json_form_is_refused_and_named(value: object) -> None:
    with pytest.raises(NotStorable, match=f"{type(value).__name__} has no JSON form") as error:
        check_json([value], "output")

    assert error.value.path == "output[0]"


def test_a_datetime_without_time_zone_is_refused() -> None:
    with pytest.raises(NotStorable, match="without time zone") as error:
        check_json({"due": datetime(2026, 1, 1)}, "output")  # noqa: DTZ001 - to be refused

    assert error.value.path == "output.due"


class Size(StrEnum):
    SMALL = "small"


class Level(IntEnum):
    HIGH = 3


class Pair(Enum):
    BOTH = (1, 2)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
        (datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T01:00:00+00:00"),
        (Size.SMALL, "small"),
        ({Size.SMALL: Size.SMALL}, {"small": "small"}),
        (Level.HIGH, 3),
        (Pair.BOTH, [1, 2]),
        (True, True),
    ],
)
def test_common_python_values_get_their_usual_json_form(value: object, stored: Json) -> None:
    checked = check_json(value, "value")

    assert repr(checked) == repr(stored)


@pytest.mark.parametrize(
    "text",
    ["", "nul", "NaN", "[1.5,NaN]", "[1.5,-Infinity]", "[1,]", "{1:2}", "'a'", "[1.5,]", "1 2.5"],
)
def test_text_that_is_not_json_raises_value_error_in_both_codecs(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads(text)


def test_ordinary_values_use_the_fast_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"role": "user", "content": "Milch, für 2 €", "n": 12_345_678_901_234_567}

    monkeypatch.setattr("eventstore.events.json_codec._write", None)
    monkeypatch.setattr("eventstore.events.json_codec.json", None)

    assert loads(dumps(value)) == value
    assert dumps(value).encode() == orjson.dumps(value)


def test_two_keys_that_are_one_in_json_are_refused() -> None:
    pair = "\ud83e\udd5b"

    with pytest.raises(NotStorable, match=r"value\.in: has two keys that are one in JSON"):
        check_json({"in": {pair: 1, "🥛": 2}}, "value")

    assert check_json({pair: 1}, "value") == {"🥛": 1}
