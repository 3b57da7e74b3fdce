"""No request reaches a protected or never-public path of the upstream unless the rule let it: whatever
passes unasked is public in every reading that some server makes of what we forward.

The readings and the table are made here by other means than in rules/routing.py: servers decode once or
twice, collapse slashes, take backslashes for slashes, drop parameters, fold case and resolve dot segments,
in any order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.config.presets import BUILT_IN
from proxy.config.schema import (
    AccessConfig,
    Alias,
    AliasesConfig,
    Config,
    RouteConfig,
    TcpAddress,
    UpstreamUrl,
)
from proxy.message import (
    NO_BODY,
    Access,
    EndpointClass,
    Forward,
    Peer,
    Refuse,
    RequestHead,
    Route,
)
from proxy.rules.decide import Tables, decide

INSIDE = Peer(ip_address("203.0.113.7"))
OUTSIDE = Peer(ip_address("198.51.100.1"))
BEARER = (b"Authorization", b"Bearer phx_abc")

PIECES = [
    *{segment for preset in BUILT_IN for segment in preset.path.split("/") if segment not in ("", "*")},
    *("..", ".", "", ";", ";x", "..;", "%2e", "%2E%2e", ".%2e", "%2f", "%5c", "\\", "%00", "%", "%zz", "%3f"),
    *(
        "%23",
        "%253F",
        "%252e",
        "%252e%252e",
        "%%32e",
        "%252f",
        "%253b",
        "%2500",
        "%25",
        "%3b",
        ";%2f..",
        ";%252f..%252f..",
    ),
    *("%65", "m%65trics", "%6Detrics", "metri%2563s", "METRICS", "Static", "sTATIC", "login", "api", "users"),
    *("admin", "phc_x", "e", "i", "*", "~", " ", "é", "open", "closed"),
]
"""What a path that wants to be taken for another is made of."""

targets = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=7).map(lambda parts: ("/" + "/".join(parts)).encode()),
    st.lists(st.one_of(st.sampled_from(PIECES), st.just("/")), max_size=9).map(
        lambda parts: ("/" + "".join(parts)).encode()
    ),
    # A public beginning is what smuggles best.
    st.tuples(
        st.sampled_from(["/static/", "/public/", "/shared/", "/site_app/", "/livestream/", "/open/"]),
        st.lists(st.one_of(st.sampled_from(PIECES), st.just("/")), max_size=8),
    ).map(lambda pair: (pair[0] + "".join(pair[1])).encode()),
)

cases = settings(max_examples=500, deadline=None)


# --- servers, as we know them ---------------------------------------------------------------------


def resolved(path: bytes) -> bytes:
    """RFC 3986 section 5.2.4."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    if segments[-1:] in ([b"."], [b".."]):
        kept.append(b"")
    return b"/" + b"/".join(kept)


STEPS = (
    lambda path: re.sub(rb"/+", b"/", path),
    lambda path: path.replace(b"\\", b"/"),
    lambda path: re.sub(rb";[^/]*", b"", path),
    lambda path: path.partition(b"\0")[0],
    lambda path: path.partition(b"?")[0],
    lambda path: path.partition(b"#")[0],
    bytes.lower,
    resolved,
)


def readings(path: bytes) -> set[bytes]:
    """Everything that a chain of servers can make of ``path`` that decodes it twice at most."""
    found = {(path, 0)}
    fresh = list(found)
    while fresh:
        reading, decoded = fresh.pop()
        made = {(step(reading), decoded) for step in STEPS}
        if decoded < 2:
            made.add((unquote_to_bytes(reading), decoded + 1))
        fresh += made - found
        found |= made
    return {reading for reading, _ in found if reading.startswith(b"/")}


# --- the table, as it is documented ---------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """A line of the built-in table as a regular expression."""

    shape: re.Pattern[bytes]
    rank: tuple[bool, bool, int]
    pattern: str
    cls: EndpointClass


def _listed(pattern: str, cls: EndpointClass, slash: bool) -> Listed:
    body = re.sub(r"<[a-z]+>", "[^/]+", pattern.removesuffix("*").replace(".", r"\."))
    shape = f"{body}.*" if pattern.endswith("*") else f"{body}/?" if slash else body
    rank = (pattern.endswith("*"), "<" in pattern, -len(pattern))
    return Listed(re.compile(shape.encode(), re.DOTALL), rank, pattern, cls)


LISTED = sorted(
    (_listed(preset.path, preset.cls, preset.slash) for preset in BUILT_IN), key=lambda line: line.rank
)
USUAL = {
    EndpointClass.PROTECTED: Access.PROTECTED,
    EndpointClass.BEARER_READ: Access.BEARER,
    EndpointClass.NEVER: Access.NEVER,
}


def documented(path: bytes, routes: tuple[RouteConfig, ...]) -> Access:
    """Who may ask for ``path``, by the words of docs/access.md."""
    line = next((line for line in LISTED if line.shape.fullmatch(path)), None)
    usual = Access.PROTECTED if line is None else USUAL.get(line.cls, Access.PUBLIC)
    names = [route for route in routes if path.decode("latin-1").removesuffix("/") == route.path]
    covers = [
        route for route in routes if route.path.endswith("*") and path.startswith(route.path[:-1].encode())
    ]
    if names:
        return names[0].access or usual
    if not covers or usual is Access.NEVER:
        return usual
    route = max(covers, key=lambda route: len(route.path))
    if route.access is None:
        return usual
    within = line is not None and line.pattern.endswith("*") and route.path.startswith(line.pattern[:-1])
    openness = [Access.PUBLIC, Access.BEARER, Access.PROTECTED, Access.NEVER]
    if usual in (Access.PUBLIC, Access.BEARER) and not within:
        return min(usual, route.access, key=openness.index)
    return route.access


# --- the property ---------------------------------------------------------------------------------


def tables(routes: tuple[RouteConfig, ...] = (), aliases: AliasesConfig | None = None) -> Tables:
    return Tables.of(
        Config(
            upstream=UpstreamUrl(TcpAddress("posthog", 8000)),
            access=AccessConfig(allowed_ip_blocks=(ip_network("203.0.113.0/24"),)),
            routes=routes,
            aliases=aliases or AliasesConfig(),
        )
    )


def passes(target: bytes, peer: Peer, table: Tables, *, bearer: bool) -> bytes | None:
    """The path that the upstream sees, ``None`` where the request is refused."""
    fields = ((b"Host", b"h"), *((BEARER,) if bearer else ()))
    decision = decide(RequestHead(b"GET", target, 1, fields, b"h", NO_BODY), peer, table, "id")
    assert isinstance(decision, Forward | Refuse)
    if isinstance(decision, Refuse):
        assert decision.status in (400, 403, 404)
        return None
    assert decision.ask is None
    return decision.target.partition(b"?")[0]


def judge(target: bytes, table: Tables, routes: tuple[RouteConfig, ...], *, bearer: bool) -> None:
    path = passes(target, OUTSIDE, table, bearer=bearer)
    open_to_all = {Access.PUBLIC, Access.BEARER} if bearer else {Access.PUBLIC}
    if path is not None:
        for reading in readings(path):
            assert documented(reading, routes) in open_to_all, (target, reading)
    inside = passes(target, INSIDE, table, bearer=bearer)
    if inside is not None:
        for reading in readings(inside):
            assert documented(reading, routes) is not Access.NEVER, (target, reading)


DEFAULT = tables()


@cases
@given(targets, st.booleans())
@example(b"/static/..%2fmetrics", False)
@example(b"/static/%2e%2e/login", False)
@example(b"/static/%252e%252e/login", False)
@example(b"/static/%%32e%%32e/login", False)
@example(b"/static/..;x/login", False)
@example(b"/static/x;%252f..%252f..%252flogin", False)
@example(b"/static/..\\login", False)
@example(b"/static//../login", False)
@example(b"/e;/../login", False)
@example(b"/e%2f..%2fmetrics", False)
@example(b"/api/surveys%2f..%2fusers", False)
@example(b"/api/projects/@current/feature_flags/a%2fb/remote_config", True)
@example(b"/flags/definitions/..", True)
@example(b"/shared/%2500/login", False)
@example(b"/login?/static/", False)
@example(b"/_liveness/%3f", False)
@example(b"/metrics%253f", False)
@example(b"/METRICS", False)
def test_nothing_protected_is_reached_unless_the_rule_let_it(target: bytes, bearer: bool) -> None:
    judge(target, DEFAULT, (), bearer=bearer)


accesses = st.one_of(st.none(), st.sampled_from(Access))
paths = st.sampled_from(
    [
        *("/open", "/open/*", "/closed/*", "/public/closed*", "/static/*", "/static/internal/*", "/shared/*"),
        *("/*", "/s*", "/api/*", "/i/*", "/metri*", "/e", "/login", "/metrics", "/flags/definitions"),
    ]
)
routes_of = st.lists(
    st.builds(lambda path, access: RouteConfig(path, access=access), paths, accesses),
    max_size=4,
    unique_by=lambda route: route.path,
).map(tuple)


@cases
@given(targets, routes_of, st.booleans())
@example(b"/open/..%2flogin", (RouteConfig("/open/*", access=Access.PUBLIC),), False)
@example(b"/open%2fx", (RouteConfig("/open/*", access=Access.PUBLIC),), False)
@example(b"/static/internal/x", (RouteConfig("/static/internal/*", access=Access.PROTECTED),), False)
@example(b"/static/%69nternal/x", (RouteConfig("/static/internal/*", access=Access.PROTECTED),), False)
@example(b"/METRICS", (RouteConfig("/*", access=Access.PUBLIC),), False)
@example(b"/static/INTERNAL/x", (RouteConfig("/static/internal/*", access=Access.PROTECTED),), False)
@example(b"/static//internal/x", (RouteConfig("/static/internal/*", access=Access.PROTECTED),), False)
def test_whatever_routes_say(target: bytes, routes: tuple[RouteConfig, ...], bearer: bool) -> None:
    judge(target, tables(routes), routes, bearer=bearer)


NAMES = (Alias("/x1", "/e/"), Alias("/lib", "/static/x"), Alias("/in", "/login"))


@cases
@given(
    targets,
    st.sampled_from([b"/k7", b"/K7", b"/k%37", b"/x1", b"/lib", b"/in", b""]),
    routes_of,
    st.booleans(),
)
@example(b"/login", b"/k7", (), False)
@example(b"/METRICS", b"/k7", (), False)
@example(b"/static/..%2flogin", b"/k7", (), False)
@example(b"/static/INTERNAL/x", b"/k7", (RouteConfig("/static/internal/*", access=Access.PROTECTED),), False)
@example(b"", b"/lib", (RouteConfig("/static/*", access=Access.PROTECTED),), False)
def test_an_alias_opens_nothing(
    target: bytes, name: bytes, routes: tuple[RouteConfig, ...], bearer: bool
) -> None:
    for app in (False, True):
        names = NAMES if app else NAMES[:2]
        judge(name + target, tables(routes, AliasesConfig("/k7", names, app)), routes, bearer=bearer)


PLAIN = [preset.path.replace("<token>", "t").replace("<key>", "k").replace("*", "x") for preset in BUILT_IN]


@cases
@given(st.sampled_from([*PLAIN, "/login", "/api/users/", "/"]), routes_of, st.booleans())
def test_plain_paths_are_as_documented(path: str, routes: tuple[RouteConfig, ...], bearer: bool) -> None:
    """The other half: what is public passes, so the first half does not hold for want of passing."""
    table = tables(routes)
    access = documented(path.encode(), routes)
    route = table.routing.route(path.encode())
    assert isinstance(route, Route)
    assert route.access is access
    assert not (route.fast and access is not Access.PUBLIC)
    opened = access is Access.PUBLIC or (bearer and access is Access.BEARER)
    assert (passes(path.encode(), OUTSIDE, table, bearer=bearer) is not None) is opened
    inside = passes(path.encode(), INSIDE, table, bearer=bearer)
    assert (inside is not None) is (access is not Access.NEVER)


@pytest.mark.parametrize(
    ("path", "reading"),
    [
        (b"/a/%252e%252e/b", b"/b"),
        (b"/a/..;x/b", b"/b"),
        (b"/a/..%5C/b", b"/b"),
        (b"//A//%62", b"/a/b"),
        (b"/a%3Bx%2Fb", b"/a/b"),
        (b"/a%252500b", b"/a%00b"),
    ],
)
def test_the_servers_of_the_model_are_as_forgiving_as_any(path: bytes, reading: bytes) -> None:
    assert reading in readings(path)
    assert path in readings(path)
