from __future__ import annotations

from dataclasses import MISSING, dataclass, fields

from proxy.config.declaration import CEILINGS, COUNT_CEILING, key


@dataclass(frozen=True)
class Section:
    needed: str = key(doc="Must be given.", form="host")
    size: int = key(5, doc="A size.", why="Five is enough.", unit="bytes", minimum=1)
    time: float = key(1.0, doc="A time.", unit="s", minimum=0)
    count: int = key(2, doc="A count.", unit="things", minimum=0)
    bounded: int = key(2, doc="A count.", unit="things", minimum=0, maximum=3)
    switch: bool = key(True, doc="On or off.")
    table: dict[str, int] = key({}, doc="A table.")  # noqa: RUF009 -- key gives each object its own


FIELDS = {field.name: field for field in fields(Section)}


def test_a_key_carries_its_documentation() -> None:
    assert FIELDS["size"].metadata == {
        "doc": "A size.",
        "unit": "bytes",
        "why": "Five is enough.",
        "minimum": 1,
        "maximum": CEILINGS["bytes"],
        "form": "",
    }
    assert FIELDS["needed"].metadata["form"] == "host"


def test_a_key_without_a_default_must_be_given() -> None:
    assert FIELDS["needed"].default is MISSING
    assert Section("x").size == 5


def test_a_number_without_a_maximum_has_the_ceiling_of_its_unit() -> None:
    assert FIELDS["time"].metadata["maximum"] == CEILINGS["s"]
    assert FIELDS["count"].metadata["maximum"] == COUNT_CEILING
    assert FIELDS["bounded"].metadata["maximum"] == 3
    assert FIELDS["switch"].metadata["maximum"] is None


def test_a_table_is_not_shared() -> None:
    assert Section("x").table == {}
    assert Section("x").table is not Section("x").table
