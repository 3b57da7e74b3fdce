"""Copied or spliced: the same bytes both ways, the same end, the same line in the log."""

from __future__ import annotations

import asyncio
import enum
import random
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.play import Actor, Play
from tests.support.tidiness import leaving_nothing_behind

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTENT = random.Random(1).randbytes(600_000)
HELD = 65_536
POST = b"POST /s/ HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: %d\r\n\r\n"


class End(enum.Enum):
    """What becomes of an exchange: it goes on to its end, or somebody leaves in the middle."""

    WHOLE = "whole"
    CLIENT_CLOSES = "client closes"
    CLIENT_RESETS = "client resets"
    UPSTREAM_CLOSES = "upstream closes"
    UPSTREAM_RESETS = "upstream resets"


@dataclass(frozen=True)
class Script:
    """Exchanges on one connection: the pieces in which the body (behind what is held) and the answer come.
    In the last one somebody may leave, behind these pieces of the answer, or of the body, when ``missing``
    more bytes should have come."""

    exchanges: Sequence[tuple[Sequence[int], Sequence[int]]]
    end: End = End.WHOLE
    in_answer: bool = False
    missing: int = 1


def pieces(size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, size), min_size=1, max_size=4)


SCRIPTS = st.builds(
    Script,
    st.lists(st.tuples(pieces(100_000), pieces(150_000)), min_size=1, max_size=3),
    st.sampled_from(End),
    st.booleans(),
    st.integers(1, 100_000),
)


async def pass_on(speaker: Actor, hearer: Actor, sizes: Sequence[int], at: int = 0) -> None:
    """Say the content from ``at`` in pieces; each is heard before the next is said."""
    for size in sizes:
        speaker.say(CONTENT[at : at + size])
        await hearer.hear(CONTENT[at : at + size])
        at += size


def leave(actor: Actor, *, by_reset: bool) -> None:
    if by_reset:
        sock = actor.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        actor.writer.transport.abort()
    else:
        actor.hang_up()


async def perform(script: Script, splice_bytes: int) -> list[Any]:
    """Play it and return what can be seen of it, but for times and addresses."""
    seen: list[Any] = []
    async with leaving_nothing_behind(), Play(limits={"splice_bytes": splice_bytes}) as play:
        client = await play.client()
        upstream: Actor | None = None
        for number, (body, answer) in enumerate(script.exchanges, start=1):
            breaks = script.end is not End.WHOLE and number == len(script.exchanges)
            missing_up = script.missing if breaks and not script.in_answer else 0
            missing_down = script.missing if breaks and script.in_answer else 0
            client.say(POST % (HELD + sum(body) + missing_up) + CONTENT[:HELD])
            upstream = upstream or await play.upstream()
            await upstream.hear_head()
            await upstream.hear(CONTENT[:HELD])
            await pass_on(client, upstream, body, HELD)
            if not missing_up:
                upstream.say(OK % (sum(answer) + missing_down) + CONTENT[:1])
                seen.append(await client.hear_head())
                await client.hear(CONTENT[:1])
                await pass_on(upstream, client, [*answer[:-1], answer[-1] - 1], 1)
            if breaks:
                client_leaves = script.end in (End.CLIENT_CLOSES, End.CLIENT_RESETS)
                leaving, staying = (client, upstream) if client_leaves else (upstream, client)
                leave(leaving, by_reset=script.end in (End.CLIENT_RESETS, End.UPSTREAM_RESETS))
                seen.append(await staying.hear_end())
        await play.line(len(script.exchanges))
        seen += [{key: line.get(key) for key in SAME} for line in play.lines()]
        counters = play.proxy.counters
        seen += [counters.request_bytes, counters.response_bytes, counters.rejected, counters.failures]
        assert bool(counters.request_bytes_spliced) == bool(splice_bytes)
    return seen


SAME = ("status", "upstream_status", "bytes_in", "bytes_out", "termination", "error", "reused", "retries")


@settings(max_examples=300, deadline=None)
@given(SCRIPTS, st.booleans())
def test_it_is_the_same_however_it_moves(script: Script, on_uvloop: bool) -> None:
    run = uvloop.run if on_uvloop else asyncio.run
    assert run(perform(script, 0)) == run(perform(script, 1))
