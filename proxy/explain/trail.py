"""One request's way through the proxy, without sending anything.

Nothing is decided here. The head is read by ``wire.heads``, judged by ``rules.decide``, looked at by the fast
exchange itself, and rendered by the functions that render it for the upstream; what is told is what they
return (a property test holds it against a running proxy, byte for byte).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxy.config.schema import ListenerMode, TrustConfig, UnixAddress
from proxy.errors import Violation
from proxy.explain.holding import Holds, holding
from proxy.message import Access, Forward, FramingKind, Peer, Refuse
from proxy.net.doorway import peer_of
from proxy.routes import demanded
from proxy.rules.address import TrustTable, peer_address
from proxy.rules.answers import answer_refusal, answer_violation
from proxy.rules.decide import decide
from proxy.rules.forwarding import Kind, classify_request_name, connection_options
from proxy.serve.connection import Connection, hinted, is_answered
from proxy.serve.fastexchange import FastExchange
from proxy.wire.heads import read_request, render_request, render_response
from proxy.wire.strict import find_head_end, leading_blank, over_limit

if TYPE_CHECKING:
    from proxy.config.schema import ListenerConfig
    from proxy.message import ClientAddress, Field, IPAddress, RequestHead, Route
    from proxy.rules.answers import OwnAnswer
    from proxy.serve.runtime import Runtime


@dataclass(frozen=True, slots=True)
class LineStory:
    """What becomes of a header line: ``kept``, ``rewritten``, ``removed`` or ``added``, and why."""

    verdict: str
    name: str
    value: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What becomes of a request and why.

    ``outcome``: ``forward``, ``refuse`` (the rules), ``reject`` (the bytes are no request) or ``pass`` (a tcp
    listener). ``checks``: what is asked outside before it may go on; what is sent upstream can then differ by
    what the service that was asked sets. ``upstream_head`` is exact but for the request id, which is
    drawn for each request; ``answer`` is what the client hears where nothing is sent up.
    """

    listener: str
    peer: str
    request: str
    outcome: str
    status: int = 0
    reason: str = ""
    detail: str = ""
    client: ClientAddress | None = None
    route: Route | None = None
    access: str = ""
    checks: tuple[str, ...] = ()
    because: tuple[str, ...] = ()
    lines: tuple[LineStory, ...] = ()
    upstream: str = ""
    upstream_head: bytes = b""
    answer: bytes = b""
    fast: bool = False
    path_why: str = ""
    cache: str = ""
    holds: tuple[Holds, ...] = ()


def explain(raw: bytes, peer: Peer, runtime: Runtime, listener: ListenerConfig | None = None) -> Explanation:
    """Tell what becomes of the request that begins ``raw``, if it comes as the first on a connection.

    Its client's rate and the pools count as not used up. ``listener``: where it comes in, if its mode and
    its list of peers with a PROXY header are to be looked at, too.
    """
    told = Explanation(peer.listener, _shown_peer(peer), _first_line(raw), "reject")
    if listener is not None:
        stopped = _at_the_door(told, listener, peer, runtime)
        if stopped is not None:
            return stopped
    try:
        head = _read(raw, runtime)
    except Violation as violation:
        violation = hinted(violation, raw)
        answered = is_answered(violation)
        return replace(
            told,
            status=violation.status if answered else 0,
            reason=violation.reason,
            detail=violation.detail,
            because=(f"refused before any rule: {violation.detail}",),
            answer=_rendered(answer_violation(violation, runtime.clock.wall())) if answered else b"",
            path_why="the bytes are no request that the gate takes",
        )
    decision = decide(head, peer, runtime.tables, runtime.request_id())
    if isinstance(decision, Refuse):
        return _refused(told, head, decision, runtime)
    return _forwarded(told, raw, head, peer, decision, runtime)


def _at_the_door(
    told: Explanation, listener: ListenerConfig, peer: Peer, runtime: Runtime
) -> Explanation | None:
    """What happens before a byte of HTTP is read."""
    senders = TrustTable.of(TrustConfig(proxies=listener.proxy_protocol, unix=bool(listener.proxy_protocol)))
    expected = senders.trusts(peer.ip)
    if expected and peer.preface is None:
        detail = (
            "this peer must begin each connection with a PROXY protocol header (listeners[].proxy_protocol): "
            "without one the connection is closed; say whom it names with --preface"
        )
        return replace(told, reason="proxy_protocol", detail=detail, because=(detail,))
    if peer.preface is not None and not expected:
        detail = "listeners[].proxy_protocol does not list this peer, so its PROXY protocol header is no HTTP"
        return replace(told, status=400, reason="bad_request_line", detail=detail, because=(detail,))
    if listener.mode is ListenerMode.TCP:
        upstream = listener.upstream or "default"
        because = (f"the listener passes all bytes on to upstream {upstream} as they are (mode = tcp)",)
        return replace(told, outcome="pass", upstream=upstream, because=because)
    return None


def _read(raw: bytes, runtime: Runtime) -> RequestHead:
    """As the connection does it (serve/connection)."""
    buffer = bytearray(raw)
    end = find_head_end(buffer, 0)
    if end < 0:
        raise over_limit(buffer, runtime.head_limits) or Violation(
            408, "head_timeout", "the request head came too slowly: its empty line is missing"
        )
    return read_request(raw[leading_blank(buffer[:end]) : end], runtime.head_limits)


def _refused(told: Explanation, head: RequestHead, refuse: Refuse, runtime: Runtime) -> Explanation:
    unread = head.framing.kind is not FramingKind.NONE
    answer = answer_refusal(refuse, head, runtime.clock.wall(), close=unread)
    return replace(
        told,
        outcome="refuse",
        status=answer.status,
        reason=refuse.reason,
        detail=refuse.detail,
        client=refuse.client,
        route=refuse.route,
        access=_access(refuse.route, runtime),
        because=refuse.because,
        answer=_rendered(answer),
        path_why="the general path answers refusals",
        holds=tuple(holding(head, refuse.client, refuse.route, runtime.config, runtime.tables)),
    )


def _rendered(answer: OwnAnswer) -> bytes:
    return render_response(answer.status, answer.reason, answer.fields) + answer.body


def _forwarded(
    told: Explanation, raw: bytes, head: RequestHead, peer: Peer, forward: Forward, runtime: Runtime
) -> Explanation:
    ask = forward.ask
    cached = runtime.cache is not None and ask is None and runtime.cache.asking(head, forward) is not None
    fast, why = _fast(raw, peer, forward, runtime)
    if fast and cached:
        why = "begins on the fast path; what the asset cache does not hold goes on to the general one"
    return replace(
        told,
        outcome="forward",
        client=forward.client,
        route=forward.route,
        access=_access(forward.route, runtime),
        checks=() if ask is None else tuple(credential.value for credential in ask.credentials),
        because=forward.because,
        lines=_line_stories(head, forward, runtime),
        upstream=f"{forward.route.upstream} {runtime.config.upstreams[forward.route.upstream].url}",
        upstream_head=render_request(head.method, forward.target, forward.fields),
        fast=fast and not cached,
        path_why=why,
        cache="is asked first: a kept answer is given without asking the upstream" if cached else "",
        holds=tuple(holding(head, forward.client, forward.route, runtime.config, runtime.tables)),
    )


def _access(route: Route | None, runtime: Runtime) -> str:
    """The access rule of a route, in a sentence."""
    if route is None:
        return ""
    if route.access is Access.PUBLIC:
        return "everybody may ask"
    if route.access is Access.NEVER:
        return "nobody may ask: the services behind answer it on the port that takes events"
    protected = demanded(runtime.config, runtime.tables)
    if route.access is Access.BEARER:
        return f"whoever shows a bearer's token (PostHog judges its worth); without one: {protected}"
    return protected


# --- which path ----------------------------------------------------------------------------------

_MISSED = {
    "size": "the head is larger than the fast reading takes",
    "request_line": "method, target form or version: the fast reading takes GET, POST and OPTIONS of "
    "origin-form, HTTP/1.0 or 1.1",
    "length": "Content-Length is not written plainly (one blank, decimal, no leading zero)",
    "line": "a header line needs the full reading (chunked, Expect, Upgrade, a Connection that names lines, "
    "an odd name or value)",
    "twice": "a line that must not be there twice is there twice",
    "no_host": "there is no Host",
    "host": "the rules refuse it for its host or transport",
    "large_body": "the body is too large to be taken whole, and too small to be streamed",
    "pipelined": "more bytes follow the request",
    "rate_limited": "its client has used up its rate",
}


def _fast(raw: bytes, peer: Peer, forward: Forward, runtime: Runtime) -> tuple[bool, str]:
    """Let a fast exchange look at the request, as a connection would."""
    if runtime.fast is None:
        return False, "fast_path = false"
    connection = Connection(runtime, peer.listener)
    connection.peer, connection.peer_key = peer, repr(peer)
    missed = runtime.counters.fast_path_missed
    before = {reason: count for (reason,), count in missed.items()}
    now = runtime.clock.monotonic()
    if FastExchange(runtime.fast, connection).try_begin(raw, now, now):
        return True, "every line is one that the fast reading takes"
    for (reason,), count in missed.items():
        if count != before.get(reason, 0):
            return False, f"{reason}: {_MISSED.get(reason, 'not taken')}"
    if not forward.route.fast:
        return False, f"route {forward.route.name} ({forward.route.cls.value}) is not one for the fast path"
    return False, "the first line or the size of the head is not what the fast reading takes"


# --- what is sent upstream -----------------------------------------------------------------------

_WHY_REMOVED = {
    Kind.CONNECTION: "it is about this connection only",
    Kind.EXPECT: "the proxy answers 100 itself",
    Kind.HOP_BY_HOP: "it is about one connection only (RFC 9110 section 7.6.1)",
    Kind.MANAGED: "only the proxy may say this to PostHog",
    Kind.UNDERSCORE: "with _ or . in its name it could pass for another header (forwarding.allow_names)",
    Kind.LENGTH: "the framing is written anew",
}


_WHY_ADDED = {
    b"x-forwarded-for": "the one client that was found",
    b"x-forwarded-proto": "how the client came",
    b"x-request-id": "drawn for each request, unless a trusted peer names one",
    b"transfer-encoding": "the framing is written anew",
    b"connection": "the handshake is this connection's own",
    b"upgrade": "the handshake is this connection's own",
}


def _line_stories(head: RequestHead, forward: Forward, runtime: Runtime) -> tuple[LineStory, ...]:
    """Compare the lines that came with those that go: what is told cannot differ from what is sent."""
    table = runtime.tables.forwarding
    named, _ = connection_options([value for name, value in head.fields if name.lower() == b"connection"])
    left = list(forward.fields)
    stories = []
    for name, value in head.fields:
        lower = name.lower()
        kind = classify_request_name(lower, table)
        if kind in (Kind.PASS, Kind.HOST, Kind.LENGTH) and (name, value) in left:
            left.remove((name, value))
            stories.append(_story("kept", (name, value)))
        elif kind in (Kind.HOST, Kind.LENGTH) and (new := _like(left, lower)) is not None:
            left.remove(new)
            stories.append(_story("rewritten", new, f"was {_text(value)}"))
        elif kind is Kind.PASS and lower in named:
            stories.append(_story("removed", (name, value), "the Connection line names it"))
        elif kind is Kind.PASS:
            stories.append(_story("removed", (name, value), "forwarding.drop_ingest_cookies"))
        else:
            stories.append(_story("removed", (name, value), _WHY_REMOVED.get(kind, "one is enough")))
    return (*stories, *(_story("added", line, _WHY_ADDED.get(line[0].lower(), "")) for line in left))


def _like(fields: list[Field], lower: bytes) -> Field | None:
    return next((line for line in fields if line[0].lower() == lower), None)


def _story(verdict: str, line: Field, why: str = "") -> LineStory:
    return LineStory(verdict, _text(line[0]), _text(line[1]), why)


# --- who asks, and where -------------------------------------------------------------------------


def peer_at(
    listener: ListenerConfig, ip: IPAddress | None, *, tls: bool, certificate: str | None = None
) -> Peer:
    """Return the peer that a connection from ``ip`` to ``listener`` is, with nothing asked of a socket.
    ``certificate``: the subject of the one that it showed."""
    address = listener.address
    if isinstance(address, UnixAddress) or ip is None:
        return Peer(None, 0, tls, str(address), client_certificate=certificate)
    local, _ = peer_of((address.host, address.port))
    return Peer(ip, 0, tls, str(address), address.port, None, local, certificate)


def _shown_peer(peer: Peer) -> str:
    ip = peer_address(peer)
    text = "a Unix socket" if peer.ip is None else str(peer.ip)
    return text if peer.preface is None else f"{text}, whose PROXY header names {ip}"


def _first_line(raw: bytes) -> str:
    return _text(raw.lstrip(b"\r\n").partition(b"\n")[0].rstrip(b"\r"))


def _text(data: bytes) -> str:
    return data.decode("ascii", "backslashreplace").replace("\r", "\\r").replace("\n", "\\n")
