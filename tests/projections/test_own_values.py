"""Each column type stores values equal to their replay and refuses values that it would change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from eventstore import (
    ConfigurationError,
    EventEnvelope,
    EventStore,
    InvalidInput,
    TaskCreated,
    TaskUpdated,
    User,
)
from projections import POSITION, RECORDED_AT, VERSION, Insert, RowChange, Update, projector
from projections.projector import Projections
from tests.support.own_read_model import protect


class Word(StrEnum):
    """An enum whose members are text."""

    HIGH = "high"


class Number(IntEnum):
    """An enum whose members are integers."""

    TWO = 2


class OldWord(str, Enum):  # noqa: UP042 - on purpose
    """An enum of text whose members are not printed as their text."""

    HIGH = "high"


class OldNumber(int, Enum):
    """An enum of integers whose members are not printed as numbers."""

    TWO = 2


class Ratio(float, Enum):
    """An enum of floats."""

    HALF = 0.5


class Level(Enum):
    """An enum whose members are neither text nor numbers."""

    HIGH = "high"


class OtherUUID(UUID):
    """A subclass of UUID, as some drivers return it."""


class OtherDay(date):
    """A subclass of date, as some libraries return it."""


class OtherTimestamp(datetime):
    """A subclass of datetime, as some libraries return it."""


class Village(tzinfo):
    """A time zone that is no `timezone` and no `ZoneInfo`."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(hours=3)

    def dst(self, _: datetime | None) -> timedelta | None:
        return None

    def tzname(self, _: datetime | None) -> str:
        return "village"


NOON = datetime(2026, 11, 28, 12, 0, 0, 123_456)  # noqa: DTZ001 - a value that is refused
EAST = timezone(timedelta(hours=14))
BERLIN = ZoneInfo("Europe/Berlin")
ODD_OFFSETS = [timedelta(hours=1, seconds=30), timedelta(microseconds=1),
               timedelta(hours=23, minutes=59)]  # fmt: skip
ID = UUID(int=7)

# The type of each column, the values that it accepts and the values that it refuses.
COLUMN_TYPES: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "text": (sa.Text, ["", "a", "ü€😀", Word.HIGH, OldWord.HIGH, "x" * 9_000],
             [5, b"a", "a\0", "a\ud800", Level.HIGH, POSITION, RECORDED_AT, ["a"], ID]),
    "varchar": (sa.String(3), ["", "abc", "😀😀😀"], ["abcd", "    "]),
    "smallint": (sa.SmallInteger, [0, -32_768, Number.TWO, OldNumber.TWO, VERSION],
                 [32_768, True, 1.0, "1"]),
    "integer": (sa.Integer, [2**31 - 1, POSITION], [2**31, Decimal("1.5"), False, RECORDED_AT]),
    "bigint": (sa.BigInteger, [-(2**63), 2**63 - 1, POSITION], [2**63, None.__class__, "5"]),
    "boolean": (sa.Boolean, [True, False], [1, "yes", VERSION]),
    "double": (sa.Double, [1.5, -0.0, 1e308, 5e-324, float("inf"), float("nan"), 3, 2**53 + 1,
                           Decimal("0.1"), Number.TWO, OldNumber.TWO, Ratio.HALF],
               [10**400, 10**5_000, Decimal("1e400"), Decimal("1e-400"), Decimal("sNaN"), True, "1",
                POSITION]),
    "numeric": (sa.Numeric, [1, 0.1, Decimal("1.500"), Decimal("NaN"), Decimal("Infinity"), 10**60,
                             10**5_000, OldNumber.TWO, Ratio.HALF],
                [Decimal("sNaN"), Decimal("1E+131080"), Decimal("1E-20000"), "1.50", True,
                 POSITION]),
    "cents": (sa.Numeric(9, 2), [Decimal("-0.005"), 1.005, 9_999_999.99, -1, Decimal("NaN")],
              [10**7, Decimal("9999999.995"), float("inf"), Decimal("1e99")]),
    "uuid": (sa.Uuid, [ID, OtherUUID(int=9)], [str(ID), ID.bytes, POSITION]),
    "bytea": (sa.LargeBinary, [b"", b"\0\xff"], ["abc", bytearray(b"a")]),
    "date": (sa.Date, [date(2026, 11, 28), date.min, date.max, OtherDay(2026, 11, 28)],
             [NOON, "2026-11-28", RECORDED_AT]),
    "timestamptz": (sa.DateTime(timezone=True),
                    [NOON.replace(tzinfo=UTC), NOON.replace(tzinfo=EAST), RECORDED_AT,
                     datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC),
                     OtherTimestamp(2026, 11, 28, tzinfo=UTC), NOON.replace(tzinfo=Village()),
                     datetime(1850, 1, 1, tzinfo=BERLIN),
                     *[datetime(2026, 10, 25, 2, 30, fold=one, tzinfo=BERLIN) for one in (0, 1)],
                     *[NOON.replace(tzinfo=timezone(one)) for one in ODD_OFFSETS]],
                    [NOON, NOON.replace(1, 1, 1, tzinfo=EAST), POSITION, date(2026, 11, 28)]),
    "json": (sa.JSON, [{"b": 1, "a": [None, True, 1.0, "\0\ud800"]}, "x", 5], [float("nan"), {1}]),
    "jsonb": (pg.JSONB, [{"zz": 1, "a": 2}, [1.0], Decimal("1e5000"), "\\u0000", "\\\\ud800"],
              [float("nan"), "\0", {"a": ["\ud800"]}, {"\0": 1}, "\\\0"]),
    "variant": (sa.JSON().with_variant(pg.JSONB(), "postgresql"), [{"zz": 1, "a": 2}], []),
    "texts": (pg.ARRAY(sa.Text),
              [[], ["a", None, "ü"], ["null", "NULL", "", '"', "\\", "{", "a,b", " x "],
               [Word.HIGH, OldWord.HIGH], [None]],
              ["a", ["a\0"], ["a\ud800"], [["a"]], [5], ("a",)]),
    "words": (sa.ARRAY(sa.String(3)), [["abc"]], [["abcd"]]),
    "smalls": (pg.ARRAY(sa.SmallInteger), [[1, Number.TWO, OldNumber.TWO]], [[32_768]]),
    "numbers": (pg.ARRAY(sa.BigInteger), [[1, 2**40, OldNumber.TWO]],
                [[2**63], [True], [POSITION]]),
    "ids": (pg.ARRAY(sa.Uuid), [[ID, OtherUUID(int=9), None]], [[str(ID)]]),
    "days": (pg.ARRAY(sa.Date), [[date(2026, 11, 28), date.min, OtherDay(2026, 1, 1)]], [[NOON]]),
}  # fmt: skip


class Base(SQLModel, registry=registry()):
    """The base of the tables in this file, with metadata of its own."""


class Sample(Base, table=True):
    __tablename__ = "sample"
    __table_args__ = (
        *(sa.Column(f"a_{name}", kind) for name, (kind, _, _) in COLUMN_TYPES.items()),
        {"schema": "service"},
    )

    user_id: str = Field(sa_column=sa.Column(sa.Text, primary_key=True))
    id: UUID = Field(sa_column=sa.Column(sa.Uuid, primary_key=True))


VALUES = [
    *((name, value, True) for name, (_, good, _) in COLUMN_TYPES.items() for value in good),
    *((name, value, False) for name, (_, _, bad) in COLUMN_TYPES.items() for value in bad),
]


@projector(Sample)
def project_sample(event: EventEnvelope) -> Iterator[RowChange]:
    match event.data:
        case TaskCreated(title=title, description=None):
            name, value, _ = VALUES[int(title)]
            yield Insert(Sample, {"id": event.stream_id, f"a_{name}": value})
        case TaskCreated():
            yield Insert(Sample, {"id": event.stream_id})
        case TaskUpdated(title=str(title)):
            name, value, _ = VALUES[int(title)]
            yield Update(Sample, {"id": event.stream_id}, {f"a_{name}": value})


@pytest.fixture(scope="module")
def values_store(server: Any) -> Iterator[EventStore]:
    """A store with a read model of every column type, which all tests of this file share."""
    url = server.create_database()
    with psycopg.connect(server.direct(url), autocommit=True) as owner:
        owner.execute("create schema service")
        # The DDL comes from the columns of the class, so the types of both are certainly equal.
        engine = sa.create_engine("postgresql+psycopg://", creator=lambda: owner)
        columns = ", ".join(
            f"{one.name} {one.type.compile(engine.dialect)}"
            for one in Sample.__table__.columns  # type: ignore[attr-defined]  # SQLModel makes it
        )
        owner.execute(f"create table service.sample ({columns}, primary key (user_id, id))")
        protect(owner, Sample)
    with EventStore.connect(url, projectors=[project_sample]) as store:
        yield store
    server.drop_database(url)


def inserted_one_by_one(user: User, numbers: list[str]) -> None:
    for number in numbers:
        user.tasks.create(number)


def inserted_together(user: User, numbers: list[str]) -> None:
    with user.transaction() as tx:
        for number in numbers:
            tx.tasks.create(number)


def updated(user: User, numbers: list[str]) -> None:
    for number in numbers:
        task = user.tasks.create("empty", description="empty")
        user.tasks.update(task.id, title=number)


@pytest.mark.parametrize("write", [inserted_one_by_one, inserted_together, updated])
@pytest.mark.parametrize("name", COLUMN_TYPES)
def test_accepted_values_are_stored_equal_to_their_replay(
    values_store: EventStore, name: str, write: Callable[[User, list[str]], None]
) -> None:
    user = values_store.user(f"accepts {name} {write.__name__}")
    numbers = [str(number) for number, one in enumerate(VALUES) if (one[0], one[2]) == (name, True)]

    write(user, numbers)

    assert len(user.tasks.list()) == len(COLUMN_TYPES[name][1])
    assert values_store.verify(user.user_id).problems == ()
    assert values_store.rebuild(user.user_id, check=True).changed == 0
    assert values_store.rebuild(user.user_id).changed == 0


@pytest.mark.parametrize("name", [name for name, (_, _, bad) in COLUMN_TYPES.items() if bad])
def test_values_that_a_column_would_change_are_refused_with_their_path(
    values_store: EventStore, name: str
) -> None:
    user = values_store.user(f"refuses {name}")
    for number, (column, value, good) in enumerate(VALUES):
        if column == name and not good:
            with pytest.raises(InvalidInput) as refused:
                user.tasks.create(str(number))
            assert f"a_{name}" in refused.value.path, value

    assert user.events() == []


@pytest.mark.parametrize(
    "kind",
    [
        sa.REAL, sa.Float(24), sa.CHAR(3), sa.DateTime().with_variant(pg.TIMESTAMP(precision=3),
        "postgresql"), sa.DateTime, pg.TIMESTAMP(timezone=True, precision=3), sa.Time,
        sa.Time(timezone=True), sa.Interval, sa.Enum(Level, name="level"), pg.INET, pg.MONEY,
        pg.ARRAY(sa.Integer, dimensions=2), pg.TSVECTOR, pg.INT4RANGE, pg.ARRAY(pg.JSONB),
        pg.ARRAY(sa.REAL), pg.ARRAY(sa.JSON), pg.ARRAY(sa.Numeric(5, 1)), pg.ARRAY(sa.Boolean),
        pg.ARRAY(sa.DateTime(timezone=True)), pg.BIT(3), pg.HSTORE, sa.String(5, collation="C"),
        pg.INTERVAL(precision=0), pg.INTERVAL(fields="DAY"), sa.Uuid(native_uuid=False),
    ],
    ids=str,
)  # fmt: skip
def test_a_column_type_that_changes_values_is_refused_without_a_query(kind: Any) -> None:
    class OtherBase(SQLModel, registry=registry()):
        pass

    class Odd(OtherBase, table=True):
        user_id: str = Field(primary_key=True)
        id: str = Field(primary_key=True)
        odd: Any = Field(sa_column=sa.Column(kind))

    with pytest.raises(ConfigurationError, match=r"its column odd is .*equal its replay"):
        Projections(projector(Odd)(project_sample.project))


@pytest.mark.parametrize("kind", [sa.Double, sa.Numeric, sa.Boolean, sa.LargeBinary,
    sa.DateTime(timezone=True), sa.JSON, pg.JSONB, pg.ARRAY(sa.Text)], ids=str)  # fmt: skip
def test_a_column_type_that_cannot_be_part_of_a_key_is_refused(kind: Any) -> None:
    class OtherBase(SQLModel, registry=registry()):
        pass

    class Odd(OtherBase, table=True):
        user_id: str = Field(primary_key=True)
        odd: Any = Field(sa_column=sa.Column(kind, primary_key=True))

    with pytest.raises(ConfigurationError, match="cannot be part of a key"):
        Projections(projector(Odd)(project_sample.project))
