"""Messages of one turn of the event loop go out together, and before anything else that is written."""

from __future__ import annotations

import asyncio

from proxy.clock import Clock, Deadlines
from proxy.net.outbox import Outbox
from proxy.net.stream import Stream


class Sending(asyncio.Transport):
    """A transport that remembers what it was told, by stream."""

    def __init__(self, name: str, told: list[str]) -> None:
        super().__init__()
        self.name = name
        self.told = told
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.told.append(f"{self.name}: {bytes(data).decode()}")

    def is_closing(self) -> bool:
        return self.closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is queued here."""

    def close(self) -> None:
        self.told.append(f"{self.name} closes")
        self.closing = True

    def abort(self) -> None:
        self.told.append(f"{self.name} aborts")
        self.closing = True


class Turn:
    """Two streams and an outbox."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.outbox = Outbox()
        self.a, self.b = self.stream("a"), self.stream("b")

    def stream(self, name: str) -> Stream:
        stream = Stream(Deadlines(Clock()), read_limit=100, write_limit=100)
        stream.connection_made(Sending(name, self.told))
        return stream

    async def ends(self) -> list[str]:
        """What was told once the callbacks of this turn have run."""
        await asyncio.sleep(0)
        told, self.told[:] = list(self.told), []
        return told


async def test_messages_go_out_at_the_end_of_the_turn_in_their_order() -> None:
    turn = Turn()
    turn.outbox.put(turn.b, b"1")
    turn.outbox.put(turn.a, b"2")
    assert turn.told == []
    assert repr(turn.outbox) == "<Outbox waiting=2>"
    assert turn.a.holding
    assert turn.a.bytes_out == 1
    assert await turn.ends() == ["b: 1", "a: 2"]
    assert not turn.a.holding
    assert repr(turn.outbox) == "<Outbox waiting=0>"
    assert await turn.ends() == []
    turn.outbox.put(turn.a, b"3")
    assert await turn.ends() == ["a: 3"]
    assert turn.a.bytes_out == 2


async def test_what_is_written_afterwards_comes_afterwards() -> None:
    turn = Turn()
    turn.outbox.put(turn.a, b"1")
    turn.a.write(b"2")
    turn.outbox.put(turn.a, b"3")
    turn.outbox.put(turn.a, b"4")
    assert await turn.ends() == ["a: 1", "a: 2", "a: 3", "a: 4"]


async def test_a_close_sends_what_is_held_and_an_abort_does_not() -> None:
    turn = Turn()
    turn.outbox.put(turn.a, b"1")
    turn.a.close()
    turn.outbox.put(turn.b, b"2")
    turn.b.abort()
    assert await turn.ends() == ["a: 1", "a closes", "b aborts"]


async def test_nothing_is_sent_on_a_stream_that_is_gone() -> None:
    turn = Turn()
    turn.outbox.put(turn.a, b"1")
    turn.outbox.put(turn.b, b"2")
    turn.a.connection_lost(None)
    turn.b.transport.close()
    assert await turn.ends() == ["b closes"]
