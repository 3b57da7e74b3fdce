"""Records as lines of JSON: there and back is the same, and a bad line changes nothing."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.spool import files, transfer
from proxy.spool.inventory import Inventory, SpoolUnusable
from proxy.spool.transfer import export_to, import_from
from tests.support.spooling import ARRIVED, SETTINGS, everything, kept, opened, record, swept

if TYPE_CHECKING:
    from pathlib import Path

LINE: dict[str, Any] = {
    "arrived": ARRIVED,
    "upstream": "default",
    "route": "/e",
    "client": "192.0.2.1 \xff",
    "head": "POST /e/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
    "body": base64.b64encode(b"hello").decode(),
}


def line(**changes: Any) -> str:
    return json.dumps({**LINE, **changes})


def exported(directory: Path, *, dead: bool = False) -> str:
    inventory = Inventory(directory)
    text: list[str] = []
    export_to(text.append, inventory, inventory.records(dead=dead))
    return "".join(text)


async def test_there_and_back(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    bodies = [bytes(range(256)) * size for size in (0, 1, 3000)]
    async with opened(one, settings=replace(SETTINGS, piece=5000)) as store:
        for number, body in enumerate(bodies):
            entry = store.begin(record(len(body), arrived=ARRIVED + number, client=b"\x00\xff"))
            entry.write(body)
            await entry.commit()
        before = await everything(store)
        text = exported(one)
    assert [json.loads(line)["length"] for line in text.splitlines()] == [len(body) for body in bodies]
    assert import_from(text.splitlines(), two) == 3
    async with opened(two) as store:
        assert (await store.tend()).adopted == 1
        after = await everything(store)
        assert [replace(stored, id=before[0][0].id) for stored, _ in after] == [
            replace(stored, id=before[0][0].id) for stored, _ in before
        ]
        assert [body for _, body in after] == bodies


async def test_what_is_delivered_meanwhile_is_left_out_or_whole(tmp_path: Path) -> None:
    async with opened(tmp_path, settings=replace(SETTINGS, piece=5000)) as store:
        small = await kept(store, b"small")
        entry = store.begin(record(None, arrived=ARRIVED + 1))
        entry.write(b"x" * 100_000)
        large = (await entry.commit()).id
        inventory = Inventory(tmp_path)
        records = list(inventory.records())
        pieces = inventory.body(large)
        first = next(pieces)
        await store.delivered([small, large])
        await swept(store)
        assert first + b"".join(pieces) == b"x" * 100_000
        text: list[str] = []
        assert export_to(text.append, inventory, records) == 0
        assert text == []


async def test_dead_letters_stay_dead(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    async with opened(one) as store:
        await store.set_aside(await kept(store, b"bad"), 400, "refused")
        await kept(store, b"good")
        text = exported(one, dead=True)
    assert import_from([*text.splitlines(), "", line()], two) == 2
    async with opened(two) as store:
        await store.tend()
        assert (store.figures().depth, store.figures().dead_letters) == (1, 1)
    assert exported(two, dead=True) == text


async def test_a_running_store_takes_an_import_over(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        assert import_from([line().encode()], tmp_path) == 1
        assert (await store.tend()).adopted == 1
        ((stored, body),) = await everything(store)
        assert (stored.client, body) == (b"192.0.2.1 \xff", b"hello")


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ("{", "Expecting"),
        ("[]", "no JSON object"),
        (line(arrived="now"), "'arrived' is missing"),
        (line(arrived=True), "'arrived' is missing"),
        (line(body=None), "'body' is missing"),
        (line(body="aGk"), "padding"),
        (line(body="????"), "base64"),
        (line(client="\u2603"), "latin-1"),
        (line(head="POST / HTTP/1.1\r\n"), "empty line"),
        (line(head="nonsense\r\n\r\n"), "no request that could be sent"),
        (line(head="POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"), "the 5 bytes of"),
        (line(head="POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), "the 5 bytes of"),
    ],
)
def test_a_bad_line_imports_nothing(tmp_path: Path, bad: str, text: str) -> None:
    with pytest.raises(SpoolUnusable, match=r"line 3: .*nothing was imported") as caught:
        import_from([line(), "", bad], tmp_path)
    assert text in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_import_is_no_file(tmp_path: Path) -> None:
    assert import_from([], tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_many_records_are_committed_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BATCH", 10)
    assert import_from([line()] * 7, tmp_path) == 7
    assert len(list(Inventory(tmp_path).records())) == 7
    assert not files.is_owned(files.databases(tmp_path)[0])


def test_a_directory_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolUnusable, match="file"):
        import_from([line()], tmp_path / "file")

    def full(table: object, lines: object) -> int:
        import sqlite3

        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(transfer, "_fill", full)
    with pytest.raises(SpoolUnusable, match="disk is full"):
        import_from([line()], tmp_path / "spool")
    assert list((tmp_path / "spool").iterdir()) == []


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_base64_of_pieces_is_that_of_the_whole(pieces: list[bytes]) -> None:
    assert "".join(transfer._base64(pieces)) == base64.b64encode(b"".join(pieces)).decode()
