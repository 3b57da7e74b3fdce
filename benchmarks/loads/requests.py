"""The requests of each load: no two alike, the same ones at every run.

A maker takes a ``Random`` and returns one request, whole. What makes senders differ in earnest differs here:
path, query, header lines with their order and spelling, length and content of the body.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
from random import Random
from typing import TYPE_CHECKING

from benchmarks.loads import senders

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import TypeAlias

    from benchmarks.loads.senders import Lines

    Maker: TypeAlias = Callable[[Random], bytes]

SEED = 20_261_125
"""Of all requests, so that two runs on two machines send the same bytes."""

SMALLEST_BODY, LARGEST_BODY = 200, 3_000
"""Bytes of an event's body: PostHog's browser events are 0.5 to 5 KB, small ones beside them."""

REPLAY_BODY = 2 * 1024 * 1024

PACKED_EVENT, PACKED_PROPERTY = 240, 9
"""Bytes that an event takes when compressed, and each property more."""

_GZIP = b"\x1f\x8b\x08\x00"
_VERSIONS = ("1.449.0", "1.448.2", "1.445.1", "1.430.0", "1.401.3")


def distinct(make: Maker, count: int, seed: int = SEED) -> list[bytes]:
    """Return ``count`` different requests."""
    random = Random(seed)
    requests: dict[bytes, None] = {}
    while len(requests) < count:
        requests[make(random)] = None
    return list(requests)


def write(requests: list[bytes], path: Path) -> None:
    """Write them as wrk.lua and openloop.py read them: each with its length before it (4 bytes, big end
    first)."""
    with path.open("wb") as file:
        for request in requests:
            file.write(struct.pack(">I", len(request)) + request)


def read(path: Path) -> list[bytes]:
    data = path.read_bytes()
    requests, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        requests.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return requests


def _request(line: str, lines: Lines, body: bytes = b"") -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    return f"{line} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def _compressed(random: Random, size: int) -> bytes:
    """What gzip leaves looks random; only its first bytes are looked at."""
    return _GZIP + random.randbytes(size - len(_GZIP))


def _packed_event(random: Random, size: int) -> bytes:
    """An event of about ``size`` bytes as SDKs compress it, to a third of its text: what looks into it (the
    delivery of what was kept) finds something."""
    event = json.loads(_json_event(random, 0))
    for number in range((size - PACKED_EVENT) // PACKED_PROPERTY):
        event["properties"][f"$property_{number}"] = senders.hexadecimal(random, 8)
    return gzip.compress(json.dumps([event]).encode(), mtime=0)


def _event_size(random: Random) -> int:
    """Between the bounds, small ones oftener: evenly spread on a logarithmic scale."""
    return round(math.exp(random.uniform(math.log(SMALLEST_BODY), math.log(LARGEST_BODY))))


def _json_event(random: Random, size: int) -> bytes:
    """An event of about ``size`` bytes, uncompressed."""
    properties = {"$lib": "web", "$current_url": senders.site(random) + senders.page(random)}
    event: dict[str, object] = {
        "api_key": "phc_bench",
        "event": random.choice(("$pageview", "$autocapture", "$identify", "order placed")),
        "distinct_id": senders.uuid(random),
        "uuid": senders.uuid(random),
        "properties": properties,
    }
    lacking = size - len(json.dumps(event))
    if lacking > 0:
        properties["$elements_chain"] = senders.hexadecimal(random, lacking)
    return json.dumps(event).encode()


def _time(random: Random) -> int:
    """Unix milliseconds, as posthog-js writes them into `_`."""
    return 1_795_000_000_000 + random.randrange(10**9)


# --- ingest ----------------------------------------------------------------------------------------


def ingest(random: Random) -> bytes:
    """One event delivery straight from a browser (five of six) or from an SDK on a server."""
    line, lines, body = _ingest(random)
    return _request(line, lines, body)


def ingest_behind_balancer(random: Random) -> bytes:
    """The same behind a balancer that appends to X-Forwarded-For."""
    line, lines, body = _ingest(random)
    return _request(line, senders.relayed(random, lines), body)


def ingest_closing(random: Random) -> bytes:
    """The same from a client that wants the connection closed after the answer."""
    line, lines, body = _ingest(random)
    kept = [(name, value) for name, value in lines if name.lower() != "connection"]
    return _request(line, [*kept, ("Connection", "close")], body)


def _ingest(random: Random) -> tuple[str, Lines, bytes]:
    size = _event_size(random)
    sender = random.choices(("chrome", "safari", "firefox", "python", "node"), (52, 22, 9, 9, 8))[0]
    if sender in ("python", "node"):
        compressed = random.random() < 0.5
        body = _packed_event(random, size) if compressed else _json_event(random, size)
        make = senders.posthog_python if sender == "python" else senders.posthog_node
        return "POST /batch/", make(random, len(body), compressed), body
    if random.random() < 0.8:
        path = random.choices(("/e/", "/i/v0/e/", "/s/"), (60, 25, 15))[0]
        query = f"?ip=0&_={_time(random)}&ver={random.choice(_VERSIONS)}&compression=gzip-js"
        body, content_type = _packed_event(random, size), "text/plain"
    else:
        path, query = (
            random.choice(("/e/", "/capture/", "/engage/")),
            random.choice(("", f"?_={_time(random)}")),
        )
        body, content_type = _json_event(random, size), "application/json"
    return f"POST {path}{query}", _browser(random, sender, len(body), content_type), body


def _browser(random: Random, name: str, body: int | None, content_type: str = "text/plain") -> Lines:
    return {"chrome": senders.chrome, "safari": senders.safari, "firefox": senders.firefox}[name](
        random, body, content_type
    )


# --- everything else -------------------------------------------------------------------------------


def flags(random: Random) -> bytes:
    """What a page asks at its start: the flags of its visitor."""
    size = random.randrange(250, 900)
    if random.random() < 0.2:
        body = _json_event(random, size)
        return _request("POST /flags/?v=2", senders.posthog_node(random, len(body), compressed=False), body)
    body = _compressed(random, size)
    target = f"/flags/?v=2&ip=0&_={_time(random)}&ver={random.choice(_VERSIONS)}&compression=gzip-js"
    return _request(f"POST {target}", _any_browser(random, len(body)), body)


def app_page(random: Random) -> bytes:
    """A page of PostHog's app: no SDK path."""
    target = f"/project/{random.randrange(40)}/dashboard/{random.randrange(10**6)}?tab={random.randrange(9)}"
    return _request(f"GET {target}", senders.chrome_page(random))


def script(random: Random) -> bytes:
    """The SDK itself, loaded by a page."""
    return _request(f"GET /static/array.js?v={random.randrange(10**6)}", _any_browser(random, None))


def cached_script(random: Random) -> bytes:
    """The same in one of few versions, from pages and browsers that are all different."""
    return _request(f"GET /static/array.js?v={random.choice(_VERSIONS)}", _any_browser(random, None))


def download(random: Random) -> bytes:
    """An export out of the app."""
    target = f"/api/projects/{random.randrange(40)}/exports/{random.randrange(10**6)}/content"
    return _request(f"GET {target}", senders.chrome_page(random))


def replay(random: Random) -> bytes:
    """A large flush of a session recording."""
    body = _compressed(random, REPLAY_BODY)
    return _request(f"POST /s/?{_replay_query(random)}", _any_browser(random, len(body)), body)


def large(random: Random) -> bytes:
    """Much in one direction, or much in the other."""
    return random.choice((replay, download))(random)


def _small_replay(random: Random) -> bytes:
    """A flush of the usual size, 4 to 200 KB: the larger ones above the 64 KiB that the proxy holds."""
    body = _compressed(random, round(math.exp(random.uniform(math.log(4_000), math.log(200_000)))))
    return _request(f"POST /s/?{_replay_query(random)}", _any_browser(random, len(body)), body)


def _replay_query(random: Random) -> str:
    return f"ip=0&_={_time(random)}&ver={random.choice(_VERSIONS)}&compression=gzip-js"


def _any_browser(random: Random, body: int | None) -> Lines:
    return _browser(random, random.choices(("chrome", "safari", "firefox"), (62, 27, 11))[0], body)


def mixed(random: Random) -> bytes:
    """What a day looks like: events, flags, some replay flushes, the script, a few pages of the app."""
    make = random.choices((ingest, flags, _small_replay, script, app_page), (70, 14, 9, 4, 3))[0]
    return make(random)
