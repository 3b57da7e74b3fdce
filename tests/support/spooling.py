"""Records for the spool, and stores that a test can await."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from proxy.clock import Clock
from proxy.config.schema import SpoolConfig
from proxy.spool.record import Receipt, SpoolRecord
from proxy.spool.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from proxy.spool.record import Keeper, Outcome, RecordId, Stored

HEAD = b"POST /e/ HTTP/1.1\r\nHost: posthog\r\nContent-Length: %d\r\n\r\n"

ARRIVED = 1_780_000_000.0

SETTINGS = SpoolConfig(commit_interval=0.0, keep_free=0, max_age=float("inf"))
"""Commits as fast as the disk can; the machine's disk may be full and the records old."""


def record(length: int | None = 0, **changes: Any) -> SpoolRecord:
    """A record for the default upstream; ``changes`` replace its fields."""
    made = SpoolRecord(ARRIVED, "default", "/e", b"192.0.2.1 phc_x", HEAD % (length or 0), length)
    return replace(made, **changes)


async def outcome_of(store: Keeper, body: bytes = b"", **changes: Any) -> Outcome:
    """Append a record and wait for what became of it."""
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    store.append(record(len(body), **changes), body, future.set_result)
    return await future


async def kept(store: Keeper, body: bytes = b"", **changes: Any) -> RecordId:
    """Append a record that is taken; return its id."""
    receipt = await outcome_of(store, body, **changes)
    assert isinstance(receipt, Receipt), receipt
    return receipt.id


async def body_of(store: Keeper, stored: Stored) -> bytes:
    return b"".join([piece async for piece in store.body(stored)])


async def everything(store: Keeper, upstream: str = "default") -> list[tuple[Stored, bytes]]:
    """All records of an upstream in order, a few at a time, with their bodies."""
    found: list[tuple[Stored, bytes]] = []
    after = None
    while page := await store.oldest(upstream, 3, after):
        found += [(stored, await body_of(store, stored)) for stored in page]
        after = page[-1].id
    return found


async def swept(store: Store) -> None:
    """Wait until the pieces that nothing refers to are deleted."""
    while any(opened.table.garbage for opened in store._writer._files.values()):
        await store.tend()


@contextlib.asynccontextmanager
async def opened(
    directory: Path, worker: str = "0", settings: SpoolConfig = SETTINGS, **more: Any
) -> AsyncIterator[Store]:
    """A store that is closed at the end."""
    store = await Store.open(directory, settings, more.pop("clock", None) or Clock(), worker, **more)
    try:
        yield store
    finally:
        await store.close()
