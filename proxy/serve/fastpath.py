"""What the fast path shares between the connections of one process: readers, and what the rules have said.

Decisions are cached by all raw bytes that the rules read, admissions never are. Nothing in here decides:
``_described`` asks ``rules`` with a head that holds every line that they look at, and a property test holds
both paths against each other, byte for byte (serve/fastexchange.py has the theory of operation).

Memory: two generations of ``SHAPES`` header blocks, ``CLIENTS`` templates each of what is said about a client
and about its way here, ``LINES`` log lines and ``PATHS`` paths; each set is dropped as a whole when full.
What is long is used once and not kept (fasthead.LONGEST_BLOCK, ``LONGEST_LINE``, ``LONGEST_PATH``), so all
of it stays below 128 MiB even where clients do their worst.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.config.schema import LogFormat
from proxy.message import NO_BODY, RequestHead, Route
from proxy.observe.fastline import client_part, line_parts
from proxy.observe.log import AccessRecord
from proxy.rules.access import host_denial
from proxy.rules.address import client_address, is_public
from proxy.rules.decide import upstream_host
from proxy.rules.forwarding import claims, effective_request_id, forwarded_for, own_fields, request_fields
from proxy.serve.fastcache import FastCache
from proxy.serve.record import client_seen, shown
from proxy.wire.fasthead import LONGEST_BLOCK, AnswerReader, Lines, Mark, RequestReader, Unfit
from proxy.wire.heads import render_fields
from proxy.wire.strict import HeadLimits

if TYPE_CHECKING:
    from proxy.message import ClientAddress, Field
    from proxy.net.pool import UpstreamPool
    from proxy.observe.metrics import Labels
    from proxy.serve.connection import Connection
    from proxy.serve.fastcache import Question
    from proxy.serve.runtime import Runtime

CLIENTS = 4096
LINES = 4096
PATHS = 1024
SHAPES = 2048
LONGEST_PATH = 256
"""Bytes of a path whose route is kept."""
LONGEST_LINE = 1024
"""Bytes of path, query, host and User-Agent together of a log line that is kept."""

_PLACEHOLDER = "00000000-0000-0000-0000-000000000000"
_REQUEST_ID = b"x-request-id"


class Front:
    """What is said upstream of all clients that came the same way (peer, host, claims of a trusted peer):
    the lines between X-Forwarded-For and the request id, and behind it."""

    __slots__ = ("after_id", "before_id", "dropped", "host", "pool")

    def __init__(
        self, host: bytes, before_id: bytes, after_id: bytes, dropped: tuple[str, ...], pool: UpstreamPool
    ) -> None:
        self.host = host
        self.before_id = before_id
        self.after_id = after_id
        self.dropped = dropped
        self.pool = pool


class Client:
    """All that is said upstream about one client, ready to be joined, and what is logged and counted."""

    __slots__ = ("address", "after_id", "before_id", "dropped", "host", "ip", "log", "pool", "suspect")

    def __init__(
        self, address: ClientAddress, front: Front, forwarded_for: bytes, record: AccessRecord
    ) -> None:
        self.address = address
        self.ip = record.client_ip
        self.host = front.host
        self.before_id = forwarded_for + front.before_id
        self.after_id = front.after_id
        self.dropped = front.dropped
        self.pool = front.pool
        self.log = client_part(record)
        self.suspect = not is_public(address.ip)


class Shape:
    """A header block (all lines but the request line and Content-Length) from one peer, ready to be sent:
    ``opening`` and ``closing`` stand around the Content-Length line, ``closing`` ends before the request
    id."""

    __slots__ = ("agent", "client", "close", "closing", "host", "logs", "named_id", "opening", "questions")

    def __init__(self, lines: Lines, client: Client, minor: int) -> None:
        self.client = client
        self.host = lines.host
        self.agent = lines.agent or b""
        self.close = minor == 0 if lines.connection is None else lines.connection is Mark.CLOSE
        self.opening = b" HTTP/1.1\r\n" + client.host + lines.before
        self.closing = lines.after + client.before_id
        self.named_id = ""
        """The request id that a trusted peer gave."""
        self.questions: dict[bytes, Question | None] = {}
        self.logs: dict[tuple[str, bytes, bytes, bytes], LogLine] = {}


class LogLine:
    """What the access log and the counters say of requests that are alike: the parts of a JSON line, or for
    text the record itself."""

    __slots__ = ("labels", "parts", "record")

    def __init__(self, record: AccessRecord, form: LogFormat) -> None:
        self.record = record
        self.parts = line_parts(record) if form is LogFormat.JSON else None
        self.labels: dict[int, Labels] = {}


class FastPath:
    """What all connections of one process share: readers and caches."""

    def __init__(self, runtime: Runtime) -> None:
        limits = runtime.config.limits
        table = runtime.tables.forwarding
        self.runtime = runtime
        self.held_body = limits.held_body
        self.head_bytes = limits.head_bytes
        self.head_lines = limits.head_lines
        self.requests = RequestReader(
            HeadLimits(limits.head_bytes, limits.head_lines, limits.target_bytes), table
        )
        self.answers = AnswerReader(HeadLimits(limits.answer_head_bytes, limits.answer_head_lines), table)
        self.cache = FastCache(runtime, runtime.cache) if runtime.cache is not None else None
        self._routes: dict[bytes, Route | None] = {}
        self._clients: dict[object, Client | None] = {}
        self._fronts: dict[object, Front] = {}
        self._lines: dict[object, LogLine] = {}
        self.young: dict[object, Shape] = {}
        self.old: dict[object, Shape] = {}

    def __repr__(self) -> str:
        return (
            f"<FastPath shapes={len(self.young)}+{len(self.old)} clients={len(self._clients)} "
            f"fronts={len(self._fronts)} lines={len(self._lines)} paths={len(self._routes)}>"
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

    def shape(
        self,
        key: object,
        connection: Connection,
        route: Route,
        minor: int,
        before: bytes,
        after: bytes,
    ) -> Shape | str:
        """Read a header block that was not seen lately; return why it is not for the fast path."""
        shape = self.old.get(key)
        if shape is None:
            # One more for Content-Length: requests with and without it may share the shape.
            if sum(block.count(b"\r\n") + 1 for block in (before, after) if block) + 1 > self.head_lines:
                return Unfit.SIZE.value
            lines = self.requests.read(before, after)
            if isinstance(lines, Unfit):
                return lines.value
            client = self._client(connection, lines, route, minor)
            if client is None:
                return "host"
            shape = Shape(lines, client, minor)
            named = tuple(field for field in lines.managed if field[0].lower() == _REQUEST_ID)
            if named:
                head = RequestHead(b"GET", b"/", minor, named, None, NO_BODY)
                shape.named_id = effective_request_id(head, client.address, "")
        if len(before) + len(after) <= LONGEST_BLOCK:
            if len(self.young) >= SHAPES:
                self.old, self.young = self.young, {}
            self.young[key] = shape
        return shape

    def _client(self, connection: Connection, lines: Lines, route: Route, minor: int) -> Client | None:
        """Return what is said about the client; ``None``: its host is not served."""
        managed = tuple(field for field in lines.managed if field[0].lower() != _REQUEST_ID)
        named = len(managed) < len(lines.managed)
        key = (connection.peer_key, lines.host, managed, named, route.upstream, minor)
        clients = self._clients
        if key in clients:
            return clients[key]
        fields: tuple[Field, ...] = ((b"Host", lines.host), *lines.managed)
        client = self._described(connection, lines.host, fields, route, minor)
        if _size(fields) <= LONGEST_BLOCK:
            if len(clients) >= CLIENTS:
                clients.clear()
            clients[key] = client
        return client

    def _described(
        self, connection: Connection, host: bytes, fields: tuple[Field, ...], route: Route, minor: int
    ) -> Client | None:
        """Ask the rules, with a head that has every line that they read."""
        tables, peer = self.runtime.tables, connection.peer
        if host_denial(host, tables.hosts) is not None:
            return None
        head = RequestHead(b"GET", b"/", minor, fields, host, NO_BODY)
        address = client_address(peer, fields, tables.trust)
        front = self._front(connection, head, address, route)
        record = AccessRecord(peer=shown(self.runtime, peer.ip))
        client_seen(self.runtime, record, address)
        value = forwarded_for(peer, address, tables.forwarding)
        line = b"X-Forwarded-For: %b\r\n" % value if value else b""
        return Client(address, front, line, record)

    def _front(
        self, connection: Connection, head: RequestHead, address: ClientAddress, route: Route
    ) -> Front:
        """The same for all clients behind one balancer, whose chains differ and whose other lines do not."""
        assert head.host is not None
        others = tuple(field for field in head.fields if field[0].lower() != b"x-forwarded-for")
        chained = len(others) < len(head.fields)
        key = (
            connection.peer_key,
            others,
            chained,
            address.peer_trusted,
            address.source,
            route.upstream,
            head.minor,
        )
        front = self._fronts.get(key)
        if front is not None:
            return front
        tables, peer = self.runtime.tables, connection.peer
        # The id is put in for each request, the client's address for each client.
        said = replace(claims(head.fields, address, tables.hosts.allows), request_id=None)
        own = own_fields(head, peer, address, _PLACEHOLDER, tables.forwarding, said)
        # The last one: a client may call its host like the placeholder.
        before, _, after = render_fields(own[address.ip is not None :]).rpartition(_PLACEHOLDER.encode())
        host = upstream_host(tables, route, head.host)
        outgoing = request_fields(head, peer, address, host, _PLACEHOLDER, tables.forwarding)
        front = Front(
            b"Host: %s\r\n" % host,
            before,
            after + b"\r\n",
            outgoing.dropped,
            self.runtime.pools[route.upstream],
        )
        if _size(others) <= LONGEST_BLOCK:
            if len(self._fronts) >= CLIENTS:
                self._fronts.clear()
            self._fronts[key] = front
        return front

    def log_line(self, shape: Shape, route: Route, key: tuple[str, bytes, bytes, bytes]) -> LogLine:
        """Return the line of requests that are alike; ``key``: listener, method, path, and what of the query
        tells the SDK."""
        listener, method, path, query = key
        lines = self._lines
        whole = (route.name, shape.host, shape.agent, key)
        found = lines.get(whole)
        if found is None:
            record = AccessRecord(
                listener=listener,
                method=method,
                host=shape.host,
                target=path + b"?" + query,
                route=route.name,
                cls=route.cls.value,
                upstream=route.upstream,
                origin="upstream",
                user_agent=shape.agent,
            )
            found = LogLine(record, self.runtime.config.log.format)
            if len(path) + len(query) + len(shape.host) + len(shape.agent) > LONGEST_LINE:
                return found
            if len(lines) >= LINES:
                lines.clear()
                for each in (*self.young.values(), *self.old.values()):
                    each.logs.clear()
            lines[whole] = found
        if len(shape.logs) >= 16:
            shape.logs.clear()
        shape.logs[key] = found
        return found


def _size(fields: tuple[Field, ...]) -> int:
    return sum(len(name) + len(value) for name, value in fields)
