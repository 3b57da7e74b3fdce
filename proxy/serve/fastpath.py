"""What the fast path shares between the connections of one process: readers, and what the rules have said.

Decisions are cached by all raw bytes that the rules read, admissions never are. Nothing in here decides:
``_described`` asks ``rules`` with a head that holds every line that they look at, and a property test holds
both paths against each other, byte for byte (serve/fastexchange.py has the theory of operation).

Memory: two generations of ``SHAPES`` header blocks, ``WAYS`` templates of what is said about a client's way
here, ``OUTCOMES`` log lines, ``SENDERS`` parts of them, ``PATHS`` paths, and ``SEEN`` hashes of blocks; each
set is dropped as a whole when full.
What is long is used once and not kept (fasthead.LONGEST_BLOCK, ``LONGEST_LINE``, ``LONGEST_PATH``), so all
of it stays below 128 MiB even where clients do their worst.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from proxy.config.schema import LogFormat
from proxy.message import NO_BODY, AddressSource, RequestHead, Route
from proxy.observe.fastline import client_part, client_tail, line_parts, sender_part
from proxy.observe.log import AccessRecord
from proxy.observe.metrics import Counters
from proxy.rules.access import host_denial
from proxy.rules.address import client_address, is_public, is_public_packed, peer_address, walk_listed
from proxy.rules.claims import claims, named_request_id
from proxy.rules.decide import upstream_host
from proxy.rules.forwarding import (
    forwarded_for,
    forwarded_for_walked,
    own_fields,
    request_fields,
    shown_address,
)
from proxy.rules.limits import limited_network, limited_walked
from proxy.rules.transport import hsts_value, transport_denial
from proxy.serve.fastcache import FastCache
from proxy.serve.record import client_seen, shown
from proxy.wire.fasthead import LONGEST_BLOCK, AnswerReader, Lines, Mark, RequestReader
from proxy.wire.heads import render_fields
from proxy.wire.strict import HeadLimits

if TYPE_CHECKING:
    from proxy.message import ClientAddress
    from proxy.net.pool import UpstreamPool
    from proxy.serve.connection import Connection
    from proxy.serve.fastcache import Question
    from proxy.serve.runtime import Runtime

OUTCOMES = 4096
PATHS = 1024
SEEN = 4096
SENDERS = 4096
SHAPES = 2048
WAYS = 4096
LONGEST_PATH = 256
"""Bytes of a path whose route is kept."""
LONGEST_LINE = 1024
"""Bytes of path, query, host and User-Agent together of a log line that is kept."""

_PLACEHOLDER = "00000000-0000-0000-0000-000000000000"


class Way:
    """What is said of all clients that came the same way (peer, host, claims of a trusted peer): the lines
    between X-Forwarded-For and the request id, and behind it.

    ``client`` is ``None`` where a trusted peer's chain names the client; then ``tail`` is what the log says
    of each (``fastline.client_tail``). ``trusted``: the peer may name the request too. ``answers`` reads what
    the upstream says to them.
    """

    __slots__ = (
        "after_id",
        "answers",
        "before_id",
        "client",
        "dropped",
        "opening",
        "pool",
        "tail",
        "trusted",
    )

    def __init__(
        self,
        host: bytes,
        before_id: bytes,
        after_id: bytes,
        dropped: tuple[str, ...],
        pool: UpstreamPool,
        answers: AnswerReader,
    ) -> None:
        self.opening = b" HTTP/1.1\r\nHost: %b\r\n" % host
        self.before_id = before_id
        self.after_id = after_id
        self.dropped = dropped
        self.pool = pool
        self.answers = answers
        self.trusted = False
        self.client: Client | None = None
        self.tail = ""


_LISTED = (AddressSource.X_FORWARDED_FOR.value,)


class Client:
    """What is said of one client: upstream (``line``), in the log, and by the counters."""

    __slots__ = ("counted", "hops", "ip", "limited", "line", "log", "source", "suspect")

    def __init__(
        self,
        ip: str,
        source: AddressSource,
        hops: int,
        forwarded_for: bytes,
        log: str,
        *,
        suspect: bool,
        limited: bytes | None,
    ) -> None:
        self.ip = ip
        self.source = source
        self.counted = _LISTED if source is AddressSource.X_FORWARDED_FOR else (source.value,)
        self.hops = hops
        self.line = b"X-Forwarded-For: %b\r\n" % forwarded_for if forwarded_for else b""
        self.log = log
        self.suspect = suspect
        self.limited = limited
        """What its rate is counted by (rules/limits.py)."""


class Shape(Lines):
    """A header block (all lines but the request line and Content-Length) from one peer, and what is said of
    it. ``named_id`` is the request id that a trusted peer gave."""

    __slots__ = ("client", "close", "kept", "named_id", "questions", "way")

    way: Way
    client: Client
    close: bool
    named_id: str
    kept: dict[bool, tuple[bytes, bytes]]
    """What it is answered where it is kept (serve/fastspool.py), by whether its connection ends."""
    questions: dict[bytes, Question | None] | None
    """What it asks the asset cache, by target (serve/fastcache.py)."""


class Outcome:
    """What the access log and the counters say of exchanges that are alike, up to who the client was, who
    sent it, times and sizes: the parts of a JSON line, or for text the record itself."""

    __slots__ = ("durations", "labels", "parts", "record", "waits")

    def __init__(self, record: AccessRecord, form: LogFormat, counters: Counters) -> None:
        self.record = record if form is LogFormat.TEXT else None
        self.parts = line_parts(record) if form is LogFormat.JSON else None
        self.labels = Counters.request_labels(record.route, record.cls, record.method, record.status)
        self.durations = counters.durations.of(record.cls)
        self.waits = counters.upstream_durations.of(record.upstream)


OutcomeKey: TypeAlias = "tuple[str, bytes, bytes, bytes, int, str, int, bool, str]"
"""Listener, method, path, host, status, the upstream's address (empty: none was asked), retries, was its
connection reused, who answered."""


class FastPath:
    """What all connections of one process share: readers and caches."""

    def __init__(self, runtime: Runtime) -> None:
        limits = runtime.config.limits
        table = runtime.tables.forwarding
        self.runtime = runtime
        self.held_body = limits.held_body
        self.answer_id = table.answer_id
        self.head_bytes = limits.head_bytes
        self.requests = RequestReader(
            runtime.head_limits,
            table,
            runtime.tables.trust.client_headers,
            cookies=runtime.config.forwarding.drop_ingest_cookies,
        )
        answer_limits = HeadLimits(limits.answer_head_bytes, limits.answer_head_lines)
        hsts = runtime.tables.transport.hsts
        self._answers = {
            (said, sdk): AnswerReader(answer_limits, table, said, sdk=sdk)
            for said in {b"", hsts}
            for sdk in (True, False)
        }
        self.cache = FastCache(runtime, runtime.cache) if runtime.cache is not None else None
        self._routes: dict[bytes, Route | None] = {}
        self._ways: dict[object, Way | None] = {}
        self.outcomes: dict[OutcomeKey, Outcome] = {}
        self.senders: dict[tuple[bytes, bytes], str] = {}
        self.young: dict[object, Shape] = {}
        self.old: dict[object, Shape] = {}
        self._seen: set[int] = set()

    def __repr__(self) -> str:
        return (
            f"<FastPath shapes={len(self.young)}+{len(self.old)} ways={len(self._ways)} "
            f"outcomes={len(self.outcomes)} senders={len(self.senders)} paths={len(self._routes)}>"
        )

    def route(self, path: bytes) -> Route | None:
        """Return the route of a path that takes the fast path, else ``None``."""
        routes = self._routes
        if path in routes:
            return routes[path]
        found = self.runtime.tables.routing.route(path)
        route = found if isinstance(found, Route) and found.fast else None
        if len(path) <= LONGEST_PATH:
            if len(routes) >= PATHS:
                routes.clear()
            routes[path] = route
        return route

    def throttled(self, client: Client, now: float) -> bool:
        """Ask for the client's token: asked each time, never kept. Without one the request is for the general
        path, which asks again and answers."""
        rates, network = self.runtime.rates, client.limited
        return rates is not None and network is not None and rates.wait(network, now) > 0

    def shape(
        self,
        key: object,
        connection: Connection,
        route: Route,
        minor: int,
        before: bytes,
        after: bytes,
    ) -> Shape | str:
        """Read a header block that is not among the young ones; return why it is not for the fast path.

        A block is kept when it comes a second time: of thousands that come once, filling and emptying the
        cache would cost more than reading them.
        """
        shape = self.old.get(key)
        if shape is None:
            shape = Shape()
            shape.drop_cookies = route.drop_cookies
            unfit = self.requests.read(before, after, shape)
            if unfit is not None:
                return unfit.value
            way = self._way(connection, shape, route, minor)
            if way is None:
                return "host"
            shape.way = way
            shape.questions = None
            shape.kept = {}
            shape.client = way.client or self._named(connection, way, shape.chain)
            shape.close = minor == 0 if shape.connection is None else shape.connection is Mark.CLOSE
            shape.named_id = (named_request_id(shape.ids) or "") if shape.ids and way.trusted else ""
            if not self._came_before(hash(key)):
                return shape
        if len(before) + len(after) <= LONGEST_BLOCK:
            if len(self.young) >= SHAPES:
                self.old, self.young = self.young, {}
            self.young[key] = shape
        return shape

    def _came_before(self, block: int) -> bool:
        """Note the hash of a block; true: it was noted before, not long ago."""
        seen = self._seen
        if block in seen:
            return True
        if len(seen) >= SEEN:
            seen.clear()
        seen.add(block)
        return False

    def _way(self, connection: Connection, lines: Lines, route: Route, minor: int) -> Way | None:
        """Return what is said of all clients that came so; ``None``: their host is not served."""
        chained, identified = bool(lines.chain), bool(lines.ids)
        key = (
            *(connection.peer_key, lines.host, lines.told, chained, identified),
            *(route.upstream, route.sdk, minor),
        )
        ways = self._ways
        if key in ways:
            return ways[key]
        way = self._described(connection, lines, route, minor)
        if len(lines.host) + sum(len(name) + len(value) for name, value in lines.told) <= LONGEST_BLOCK:
            if len(ways) >= WAYS:
                ways.clear()
            ways[key] = way
        return way

    def _described(self, connection: Connection, lines: Lines, route: Route, minor: int) -> Way | None:
        """Ask the rules, with a head that has every line that they read."""
        tables, peer, host = self.runtime.tables, connection.peer, lines.host
        if host_denial(host, tables.hosts) is not None:
            return None
        fields = (
            (b"Host", host),
            *lines.told,
            *((b"X-Forwarded-For", value) for value in lines.chain),
            *((b"X-Request-Id", value) for value in lines.ids),
        )
        head = RequestHead(b"GET", b"/", minor, fields, host, NO_BODY)
        address = client_address(peer, fields, tables.trust)
        if self.runtime.pools[route.upstream].dialler.announces:
            return None  # each of its connections is one client's
        transport = tables.transport
        if transport_denial(head, peer, address, route.cls, transport, tables.hosts.allows) is not None:
            return None
        # The id is put in for each request, the client's address for each client.
        said = replace(claims(fields, address, tables.hosts.allows), request_id=None)
        own = own_fields(head, peer, address, _PLACEHOLDER, tables.forwarding, said)
        # The last one: a client may call its host like the placeholder.
        before, _, after = render_fields(own[address.ip is not None :]).rpartition(_PLACEHOLDER.encode())
        sent_host = upstream_host(tables, route, host)
        outgoing = request_fields(head, peer, address, sent_host, _PLACEHOLDER, tables.forwarding)
        hsts = hsts_value(head, peer, address, transport, tables.hosts.allows)
        way = Way(
            sent_host,
            before,
            after + b"\r\n",
            outgoing.dropped,
            self.runtime.pools[route.upstream],
            self._answers[hsts, route.sdk],
        )
        way.trusted = address.peer_trusted
        if lines.chain and address.peer_trusted and address.source is not AddressSource.HEADER:
            # Nothing else that is said depends on where the chain leads.
            way.tail = client_tail(shown(self.runtime, peer.ip), AddressSource.X_FORWARDED_FOR.value)
        else:
            way.client = self._client(connection, address)
        return way

    def _client(self, connection: Connection, address: ClientAddress) -> Client:
        record, peer = AccessRecord(), connection.peer
        client_seen(self.runtime, record, address)
        tail = client_tail(shown(self.runtime, peer.ip), record.client_ip_source)
        return Client(
            record.client_ip,
            address.source,
            record.trusted_hops,
            forwarded_for(peer, address, self.runtime.tables.forwarding),
            client_part(record.client_ip, tail, record.trusted_hops),
            suspect=not is_public(address.ip),
            limited=limited_network(address, self.runtime.tables.trust),
        )

    def _named(self, connection: Connection, way: Way, chain: tuple[bytes, ...]) -> Client:
        """Return the client to whom a trusted peer's chain leads: there are as many as requests, so nothing
        is kept, and nothing but text is made of them."""
        tables = self.runtime.tables
        _, own_address = tables.trust.habit(peer_address(connection.peer))
        walked = walk_listed(chain, tables.trust, own_address=own_address)
        if not walked:
            fields = tuple((b"X-Forwarded-For", value) for value in chain)
            return self._client(connection, client_address(connection.peer, fields, tables.trust))
        ip = shown_address(walked[-1], tables.forwarding)
        return Client(
            ip,
            AddressSource.X_FORWARDED_FOR,
            len(walked),
            forwarded_for_walked(connection.peer, walked, tables.forwarding),
            client_part(ip, way.tail, len(walked)),
            suspect=not is_public_packed(walked[-1]),
            limited=limited_walked(walked[-1], tables.trust),
        )

    def outcome(self, key: OutcomeKey, route: Route) -> Outcome:
        """Return what is said of exchanges that are alike, for a key that is not in ``outcomes``."""
        listener, method, path, host, status, address, retries, reused, origin = key
        record = AccessRecord(
            listener=listener,
            method=method,
            host=host,
            target=path,
            route=route.name,
            cls=route.cls.value,
            upstream=route.upstream,
            upstream_addr=address,
            status=status,
            upstream_status=status if address else 0,
            origin=origin,
            retries=retries,
            reused=reused,
        )
        found = Outcome(record, self.runtime.config.log.format, self.runtime.counters)
        if len(path) + len(host) <= LONGEST_LINE:
            if len(self.outcomes) >= OUTCOMES:
                self.outcomes.clear()
            self.outcomes[key] = found
        return found

    def sender(self, key: tuple[bytes, bytes]) -> str:
        """Return what a JSON line says of a User-Agent and of what in the query tells the SDK, for a key that
        is not in ``senders``."""
        agent, query = key
        part = sender_part(AccessRecord(user_agent=agent, target=b"/?" + query))
        if len(agent) + len(query) <= LONGEST_LINE:
            if len(self.senders) >= SENDERS:
                self.senders.clear()
            self.senders[key] = part
        return part
