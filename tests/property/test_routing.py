"""For arbitrary bytes: routing never raises, and no reading of a path gets a laxer class than it has."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.config.presets import BUILT_IN
from proxy.config.schema import Alias, AliasesConfig, Config, RouteConfig
from proxy.message import SDK_CLASSES, EndpointClass, Route
from proxy.rules.routing import Mismatch, RoutingTable, outgoing_target

TABLES = [
    RoutingTable.of(Config()),
    RoutingTable.of(
        Config(
            routes=(
                RouteConfig("/api/*", upstream="web"),
                RouteConfig("/i/*", upstream="capture"),
                RouteConfig("/flags*", upstream="flags"),
                RouteConfig("/*", upstream="all"),
            )
        )
    ),
]

PIECES = [
    *{segment for preset in BUILT_IN for segment in preset.path.split("/") if segment not in ("", "*")},
    *("..", ".", "", ";", ";x", "%2e", "%2E%2e", "%2f", "%5c", "\\", "%00", "%", "%zz", "%3f", "?", "#"),
    *("%65", "m%65trics", "%6Detrics", "%252e", "%3b", "phc_x", "api", "e", "a", " ", "*", "\x00", "é"),
]
"""What a path that wants to be taken for another is made of."""

targets = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from(PIECES), max_size=7).map(lambda parts: ("/" + "/".join(parts)).encode()),
    st.lists(st.one_of(st.sampled_from(PIECES), st.just("/")), max_size=9).map(
        lambda parts: ("/" + "".join(parts)).encode()
    ),
)

cases = settings(max_examples=600, deadline=None)


def known_class(path: bytes) -> EndpointClass:
    """The table read by other means: one regex per pattern, the strongest kind first."""

    def regex(pattern: str, slash: bool) -> str:
        body = re.sub(r"<[a-z]+>", "[^/]+", re.escape(pattern.removesuffix("*")).replace(r"\<", "<"))
        return f"{body}.*" if pattern.endswith("*") else f"{body}/?" if slash else body

    order = sorted(
        BUILT_IN, key=lambda preset: (preset.path.endswith("*"), "<" in preset.path, -len(preset.path))
    )
    text = path.decode("latin-1")
    for preset in order:
        if re.fullmatch(regex(preset.path, preset.slash), text, re.DOTALL):
            return preset.cls
    return EndpointClass.PROTECTED


def readings(path: bytes) -> set[bytes]:
    """How servers read a path: each of four habits on or off, parameters taken out at any moment."""

    def without_parameters(reading: bytes) -> bytes:
        return re.sub(rb";[^/]*", b"", reading)

    habits = (
        without_parameters,
        unquote_to_bytes,
        without_parameters,
        lambda reading: reading.replace(b"\\", b"/"),
        without_parameters,
        lambda reading: re.sub(rb"/+", b"/", reading),
    )
    found = {path}
    for habit in habits:
        found |= {habit(reading) for reading in found}
    return found


def resolved(path: bytes) -> bytes:
    """RFC 3986 section 5.2.4: dot segments taken out."""
    kept: list[bytes] = []
    for segment in path.split(b"/")[1:]:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    return b"/" + b"/".join(kept)


@cases
@given(st.binary())
@example(b"")
@example(b"*")
@example(b"/" * 5000)
@example(b"/%" * 5000)
@example(b"/;" * 5000)
def test_never_raises(target: bytes) -> None:
    for table in TABLES:
        for shaped in (target, b"/" + target):
            assert isinstance(table.route(shaped), Route | Mismatch)


@cases
@given(targets)
@example(b"/static/..%2fmetrics")
@example(b"/static/%2e%2e/metrics")
@example(b"/public/..;x/api/users")
@example(b"/e%2f..%2fmetrics")
@example(b"/metrics;x")
@example(b"/metrics;%2fx")
@example(b"/metrics;\\x")
@example(b"/metrics%3b%5cx")
@example(b"/;%2fx\\metrics")
@example(b"//metrics")
@example(b"/.\\metrics")
def test_no_reading_of_a_routed_path_has_another_class(target: bytes) -> None:
    for table in TABLES:
        route = table.route(target)
        if isinstance(route, Mismatch) or target == b"*":
            continue
        path = target.partition(b"?")[0]
        for reading in readings(path):
            # So nothing that some server reads as a NEVER or PROTECTED path passes as a laxer class...
            assert known_class(reading) is route.cls
            # ... and no server resolves it to somewhere else either.
            assert resolved(reading) == reading
            assert b"\0" not in reading


@cases
@given(targets)
def test_configured_routes_agree_on_all_readings_too(target: bytes) -> None:
    table = TABLES[1]
    route = table.route(target)
    if isinstance(route, Route) and target != b"*":
        for reading in readings(target.partition(b"?")[0]):
            prefix = next(
                prefix for prefix in ("/flags", "/api/", "/i/", "/") if reading.startswith(prefix.encode())
            )
            # A configured prefix opens nothing that must never be public: that keeps its own route.
            assert route.name == f"{prefix}*" or route.cls is EndpointClass.NEVER


@cases
@given(targets, st.binary(max_size=20))
def test_the_query_never_matters(target: bytes, query: bytes) -> None:
    for table in TABLES:
        path = target.partition(b"?")[0]
        if path != b"*":
            assert table.route(path + b"?" + query) == table.route(path)


NAMED = RoutingTable.of(
    Config(
        aliases=AliasesConfig(
            prefix="/phc_x", paths=(Alias("/a", "/e/"), Alias("/api/e", "/static/array.js"))
        ),
        routes=(RouteConfig("/livestream/*", upstream="live", strip="/livestream"),),
    )
)
PLAIN = TABLES[0]


@cases
@given(targets, st.sampled_from([b"", b"/phc_x", b"/phc_x/", b"/a", b"/api/e"]))
@example(b"/login", b"/phc_x")
@example(b"/%2e%2e/login", b"/phc_x")
@example(b"/../metrics", b"/phc_x")
@example(b"/livestream/x", b"/phc_x")
def test_an_alias_is_no_way_round_a_class(target: bytes, before: bytes) -> None:
    asked = before + target
    route = NAMED.route(asked)
    if isinstance(route, Mismatch) or asked == b"*":
        return
    sent = outgoing_target(route, asked)
    assert sent.partition(b"?")[2] == asked.partition(b"?")[2]
    path = sent.partition(b"?")[0]
    assert path.startswith(b"/")
    if route.upstream == "live":
        path = b"/livestream" + path
    # What the upstream hears has that class itself, however it reads it.
    for reading in readings(path):
        assert known_class(reading) is route.cls
        assert resolved(reading) == reading
    if sent != asked:
        assert route.cls is EndpointClass.PUBLIC or route.cls in SDK_CLASSES
