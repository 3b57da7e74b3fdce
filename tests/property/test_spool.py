"""The store against a dict: whatever is done to it in whatever order, what it holds is what was kept.

A crash is a copy of the files as they are while the store has them open: what a machine would find after
power failed. Every record whose receipt was given must be in it, and everything else as it was.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from proxy.clock import Clock
from proxy.spool.record import RecordId, SpoolRecord, UpstreamFigures
from proxy.spool.store import Store
from proxy.spool.table import room
from tests.support.spooling import SETTINGS, body_of, everything, kept, record, swept

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

T = TypeVar("T")

UPSTREAMS = ("default", "replay")
SMALL_PIECES = replace(SETTINGS, piece=4096)

arrivals = st.sampled_from([1.0, 2.0, 3.0, 2.0**31])
upstreams = st.sampled_from(UPSTREAMS)
small = st.binary(max_size=40)
large = st.integers(0, 70_000).map(lambda size: (b"%07d" % size * (size // 7 + 1))[:size])


@dataclass
class Held:
    """What the model knows of a record."""

    record: SpoolRecord
    body: bytes
    attempts: int = 0
    dead: bool = False


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp(prefix="spool-"))
        self.directory = self.root / "0"
        self.model: dict[RecordId, Held] = {}
        self.crashes = 0

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    @initialize()
    def start(self) -> None:
        self.open("0")

    def open(self, worker: str) -> None:
        self.store = self.run(Store.open(self.directory, SMALL_PIECES, Clock(), worker))
        tended = self.run(self.store.tend())
        assert tended.notices == ()

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.root)

    def pick(self, data: st.DataObject) -> RecordId:
        """A record by its number: the names of files are drawn by nobody."""
        return list(self.model)[data.draw(st.integers(0, len(self.model) - 1))]

    def waiting(self, upstream: str) -> list[RecordId]:
        return sorted(
            key for key, held in self.model.items() if held.record.upstream == upstream and not held.dead
        )

    @rule(arrived=arrivals, upstream=upstreams, body=small)
    def append(self, arrived: float, upstream: str, body: bytes) -> None:
        key = self.run(kept(self.store, body, arrived=arrived, upstream=upstream))
        assert key not in self.model
        self.model[key] = Held(record(len(body), arrived=arrived, upstream=upstream), body)

    @rule(arrived=arrivals, upstream=upstreams, body=large, cut=st.integers(500, 9000), commit=st.booleans())
    def in_pieces(self, arrived: float, upstream: str, body: bytes, cut: int, commit: bool) -> None:
        made = record(len(body), arrived=arrived, upstream=upstream)

        async def write() -> None:
            entry = self.store.begin(made)
            for start in range(0, len(body), cut):
                if not entry.write(body[start : start + cut]):
                    await entry.ready()
            if commit:
                self.model[(await entry.commit()).id] = Held(made, body)
            else:
                entry.abandon()
                await self.store.tend()

        self.run(write())

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delivered(self, data: st.DataObject) -> None:
        keys = [self.pick(data) for _ in range(data.draw(st.integers(0, 4)))]
        self.run(self.store.delivered(keys))
        for key in keys:
            self.model.pop(key, None)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), status=st.sampled_from([400, 401, 413]))
    def set_aside(self, data: st.DataObject, status: int) -> None:
        key = self.pick(data)
        self.run(self.store.set_aside(key, status, "refused"))
        self.model[key].dead = True

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def postponed(self, data: st.DataObject) -> None:
        key = self.pick(data)
        self.run(self.store.postponed(key))
        self.model[key].attempts += 1

    @rule()
    def tend(self) -> None:
        self.run(self.store.tend())

    @rule(worker=st.sampled_from(["0", "1"]))
    def restart(self, worker: str) -> None:
        self.run(self.store.close())
        self.open(worker)

    @rule(worker=st.sampled_from(["0", "1"]))
    def crash(self, worker: str) -> None:
        self.run(swept(self.store))  # a copy of files that change meanwhile is no moment of theirs
        self.crashes += 1
        after = self.root / str(self.crashes)
        shutil.copytree(self.directory, after, ignore=shutil.ignore_patterns("*-shm", "*.lock"))
        self.run(self.store.close())
        self.directory = after
        self.open(worker)

    @invariant()
    def holds_what_was_kept(self) -> None:
        for upstream in UPSTREAMS:
            found = self.run(everything(self.store, upstream))
            keys = self.waiting(upstream)
            assert [stored.id for stored, _ in found] == keys
            for stored, body in found:
                held = self.model[stored.id]
                assert body == held.body
                assert (stored.head, stored.client, stored.length) == (
                    held.record.head,
                    held.record.client,
                    len(body),
                )
                assert stored.attempts == held.attempts

    @invariant()
    def reckons_right(self) -> None:
        figures = self.store.figures()
        expected = {}
        for upstream in UPSTREAMS:
            keys = self.waiting(upstream)
            if keys:
                size = sum(room(self.model[key].record, len(self.model[key].body)) for key in keys)
                expected[upstream] = UpstreamFigures(len(keys), size, keys[0].arrived)
        assert figures.upstreams == expected
        assert figures.dead_letters == sum(held.dead for held in self.model.values())
        assert figures.waiting_bytes == 0

    @precondition(lambda self: self.waiting("default"))
    @rule(data=st.data())
    def goes_on_from_anywhere(self, data: st.DataObject) -> None:
        keys = self.waiting("default")
        after = keys[data.draw(st.integers(0, len(keys) - 1))]
        count = data.draw(st.integers(1, 5))
        found = self.run(self.store.oldest("default", count, after))
        assert [stored.id for stored in found] == keys[keys.index(after) + 1 :][:count]
        for stored in found:
            assert self.run(body_of(self.store, replace(stored, inline=None))) == self.model[stored.id].body


def test_the_store_holds_what_it_was_given() -> None:
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=30, stateful_step_count=30, deadline=None)
    )


class Written:
    """Files with twenty records, each in a transaction of its own, and nothing moved into the database."""

    def __init__(self) -> None:
        self.bodies = [b"%03d" % number * (number * 400 + 1) for number in range(20)]
        self.directory = Path(tempfile.mkdtemp(prefix="spool-"))

        async def write() -> None:
            store = await Store.open(self.directory / "live", SETTINGS, Clock(), "0")
            for number, body in enumerate(self.bodies):
                await kept(store, body, arrived=float(number))
            shutil.copytree(self.directory / "live", self.directory / "image")
            await store.close()

        asyncio.run(write())
        (self.log,) = (self.directory / "image").glob("*-wal")


@pytest.fixture(scope="module")
def written() -> Iterator[Written]:
    written = Written()
    yield written
    shutil.rmtree(written.directory)


@given(share=st.floats(0, 1), tail=st.binary(max_size=100))
@settings(max_examples=40, deadline=None)
def test_whatever_of_the_log_reached_the_disk_is_a_beginning(
    written: Written, share: float, tail: bytes
) -> None:
    """Power fails while the log is written: cut anywhere, and with anything behind the cut."""
    with tempfile.TemporaryDirectory(prefix="spool-") as name:
        directory = Path(name) / "after"
        shutil.copytree(written.log.parent, directory, ignore=shutil.ignore_patterns("*-shm", "*.lock"))
        log = written.log.read_bytes()
        (directory / written.log.name).write_bytes(log[: int(len(log) * share)] + tail)

        async def read() -> list[bytes]:
            store = await Store.open(directory, SETTINGS, Clock(), "0")
            assert store.notices == []
            found = [body for _, body in await everything(store)]
            await store.close()
            return found

        found = asyncio.run(read())
    assert found == written.bodies[: len(found)]
    assert share < 1 or found == written.bodies
