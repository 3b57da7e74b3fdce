"""A general exchange through the asset cache: answered from it, or asked for and kept on its way.

::

    fresh ─▶ answered from the cache
    the same is under way ─▶ wait (`cache.wait`), look again
    else ask, with our own conditions: 304 ─▶ renewed, answered from the cache
                                       failed, stale is allowed ─▶ the stale one
                                       anything else ─▶ relayed as it comes, and kept if its headers allow it

What the client hears while an answer is being kept is not delayed: the pieces are noted as they pass.

Memory: that of the store; what is arriving is counted there, `cache.max_entry` a body at most.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxy.cache.flights import Flights, Landing
from proxy.cache.store import Store, Variant
from proxy.errors import Failure, Source
from proxy.message import FramingKind, first_value
from proxy.rules.answers import http_date
from proxy.rules.caching import (
    STALE_STATUSES,
    Kept,
    Terms,
    asking,
    conditional,
    is_fresh,
    kept_head,
    may_stand_in,
    not_modified,
    renewed_terms,
    terms_of,
    updated,
)
from proxy.serve.streaming import stuck_client

if TYPE_CHECKING:
    from proxy.cache.flights import Flight
    from proxy.clock import Deadlines
    from proxy.config.schema import CacheConfig
    from proxy.message import Forward, RequestHead, ResponseHead
    from proxy.net.exchange import UpstreamExchange
    from proxy.observe.metrics import Counters
    from proxy.rules.caching import Asking
    from proxy.serve.body import RequestBody
    from proxy.serve.exchange import Exchange
    from proxy.serve.runtime import Runtime


class AssetCache:
    """The cache of one process: what is kept, and what is under way."""

    def __init__(self, config: CacheConfig, deadlines: Deadlines) -> None:
        self.config = config
        self.store = Store(config)
        self.flights = Flights(deadlines)

    def __repr__(self) -> str:
        return f"<AssetCache {self.store!r} flights={len(self.flights)}>"

    def count(self, counters: Counters) -> None:
        """Bring the counters of what is kept up to date: at each sweep."""
        counters.cache_bytes = self.store.size
        counters.cache_entries = len(self.store)
        counters.cache_evictions = self.store.evictions

    @staticmethod
    def asking(head: RequestHead, forward: Forward) -> Asking | None:
        """Return what the request asks the cache; ``None``: nothing."""
        if head.framing.kind is FramingKind.CHUNKED or head.framing.length:
            return None
        host = first_value(forward.fields, b"host") or b""
        return asking(head.method, forward.target, forward.route.upstream, host, forward.fields)


async def answer_cached(
    exchange: Exchange, cache: AssetCache, asked: Asking, forward: Forward, body: RequestBody
) -> bool:
    """Answer a request that the cache has to do with; true: the connection may take another one."""
    runtime, store = exchange.runtime, cache.store
    patience = runtime.clock.monotonic() + cache.config.wait
    landing: Landing | None = None
    while True:
        now = runtime.clock.monotonic()
        found = store.find(asked)
        # One that others have just brought was asked for after this request came.
        asks = asked.insists and landing is not Landing.KEPT
        if found is not None and is_fresh(found.kept, now) and not asks:
            return await tell(exchange, Told(found, Result.HIT), asked, forward)
        if store.passes(asked.key, now) or not asked.keep:
            return await exchange.forward(forward, body)
        if landing is Landing.FAILED and found is not None and may_stand_in(found.kept, now):
            told = Told(found, Result.STALE, "the same request has just failed")
            return await tell(exchange, told, asked, forward)
        values = store.values(asked)
        if landing in _UNDECIDED:
            landing = await cache.flights.landed(asked.key, values, patience)
            if landing is not None:
                continue
        keeper = Keeper(runtime, cache, asked, found)
        if landing is None:
            keeper.take_off(cache.flights.take_off(asked.key, values))
        return await _fetch(exchange, keeper, forward, body)


_UNDECIDED = (None, Landing.GIVEN_UP, Landing.KEPT)
"""Somebody else may be under way by now."""


async def tell(exchange: Exchange, told: Told, asked: Asking, forward: Forward) -> bool:
    """Answer from the cache; true: the connection may take another request."""
    kept, head, connection, runtime = told.variant.kept, exchange.head, exchange.connection, exchange.runtime
    now, write_stall = runtime.clock.monotonic(), runtime.config.timeouts.write_stall
    close = connection.must_close(head.close, now)
    unchanged = not_modified(asked.fields, kept.head.fields)
    rendered = told.variant.head(
        head.method,
        head.minor,
        now,
        runtime.tables.forwarding,
        close=close,
        not_modified=unchanged,
        hsts=forward.hsts,
    )
    exchange.answer_begins()
    body = b"" if unchanged or head.method == b"HEAD" else kept.body
    runtime.counters.cache.add(told.result.value)
    exchange.record.from_cache(304 if unchanged else 200, told.failure)
    size = connection.write_limit
    connection.write_both(exchange.record.identified(rendered), body[:size])
    for at in range(size, len(body), size):
        await connection.drain(write_stall, stuck_client)
        connection.write(body[at : at + size])
    return not close


async def _fetch(exchange: Exchange, keeper: Keeper, forward: Forward, body: RequestBody) -> bool:
    """Ask the upstream; where it fails and a stale answer may stand in, give that."""
    try:
        return await exchange.forward(keeper.request(forward), body, keeper)
    except Failure as failure:
        if failure.source is not Source.UPSTREAM or exchange.answering:
            raise
        stale = keeper.failed(f"{failure.kind}: {failure.detail}")
        if stale is None:
            raise
        return await tell(exchange, stale, keeper.asked, forward)
    finally:
        keeper.finish()


class Result(enum.Enum):
    """What the cache made of a request; the counter's labels. MISS: the answer came from the upstream."""

    HIT = "hit"
    MISS = "miss"
    REVALIDATED = "revalidated"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Told:
    """What is to be told from the cache, and why if it is stale."""

    variant: Variant
    result: Result
    failure: str = ""


class Keeper:
    """Looks at the answer to one request, and notes its body where that may be kept.

    ``found``: what is kept already, stale or to be asked for again.
    """

    def __init__(self, runtime: Runtime, cache: AssetCache, asked: Asking, found: Variant | None) -> None:
        self.asked = asked
        self._runtime = runtime
        self._cache = cache
        self._found = found
        self._began = runtime.clock.monotonic()
        self._flight: Flight | None = None
        self._kept: Kept | None = None
        self._pieces: list[bytes] = []
        self._noted = 0

    def take_off(self, flight: Flight) -> None:
        """Others wait for this answer."""
        self._flight = flight

    def request(self, forward: Forward) -> Forward:
        """Return the request with our conditions."""
        found = self._found
        return replace(
            forward, fields=conditional(forward.fields, None if found is None else found.kept.head.fields)
        )

    def heard(self, answer: ResponseHead, exchange: UpstreamExchange) -> Told | None:
        """The final head is here; what to tell instead of it, ``None``: itself."""
        found = self._found
        if answer.status == 304 and found is not None:
            return Told(self._renew(found, answer), Result.REVALIDATED)
        if answer.status in STALE_STATUSES and (
            told := self.failed(f"the upstream answered {answer.status}")
        ):
            return told
        self._runtime.counters.cache.add(Result.MISS.value)
        self._look(answer, exchange)
        return None

    def _look(self, answer: ResponseHead, exchange: UpstreamExchange) -> None:
        """Will it be kept?"""
        runtime, store, now = self._runtime, self._cache.store, self._runtime.clock.monotonic()
        wall = runtime.clock.wall()
        terms = terms_of(answer, wall, now - self._began, self._cache.config, runtime.tables.forwarding)
        if isinstance(terms, Terms):
            self._kept = Kept(kept_head(answer, http_date(wall)), b"", terms, now)
            exchange.tell_body(self._note)
            return
        runtime.counters.cache_not_kept.add(terms)
        if answer.status < 500:
            if self._found is not None:
                store.drop(self._found)
            store.let_pass(self.asked.key, now)
        self._land(Landing.ALONE if answer.status < 500 else Landing.FAILED)

    def _note(self, data: bytes) -> None:
        """A piece of the body passes."""
        if self._kept is None:
            return
        store = self._cache.store
        if self._noted + len(data) > self._cache.config.max_entry or not store.reserve(len(data)):
            self._runtime.counters.cache_not_kept.add("too_large")
            store.let_pass(self.asked.key, self._runtime.clock.monotonic())
            self._forget()
            self._land(Landing.ALONE)
            return
        self._noted += len(data)
        self._pieces.append(data)

    def complete(self) -> None:
        """The whole answer has passed."""
        if self._kept is not None:
            kept = replace(self._kept, body=b"".join(self._pieces))
            self._forget()
            self._cache.store.put(self.asked, kept)
            self._land(Landing.KEPT)

    def failed(self, why: str) -> Told | None:
        """The upstream failed; what may stand in for its answer."""
        self._land(Landing.FAILED)
        found = self._found
        if found is None or not may_stand_in(found.kept, self._runtime.clock.monotonic()):
            return None
        return Told(found, Result.STALE, why)

    def finish(self) -> None:
        """The exchange is over, however it ended."""
        self._forget()
        self._land(Landing.GIVEN_UP)

    def _renew(self, found: Variant, answer: ResponseHead) -> Variant:
        """The upstream says that what is kept still holds."""
        runtime, now = self._runtime, self._runtime.clock.monotonic()
        wall = runtime.clock.wall()
        head = updated(found.kept.head, answer, http_date(wall))
        terms = renewed_terms(
            head, answer, wall, now - self._began, self._cache.config, runtime.tables.forwarding
        )
        if isinstance(terms, Terms):
            variant = self._cache.store.put(
                self.asked, replace(found.kept, head=head, terms=terms, arrived=now)
            )
            self._land(Landing.KEPT)
            return variant
        runtime.counters.cache_not_kept.add(terms)
        self._cache.store.drop(found)
        self._cache.store.let_pass(self.asked.key, now)
        self._land(Landing.ALONE)
        return Variant(found.key, found.values, replace(found.kept, head=head))

    def _forget(self) -> None:
        self._cache.store.give_back(self._noted)
        self._noted = 0
        self._pieces = []
        self._kept = None

    def _land(self, landing: Landing) -> None:
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.land(landing)
