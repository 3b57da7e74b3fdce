"""The fast path takes what real senders send, and sends it on as the general path does: SDKs, a browser and
curl, as they are and as nginx, HAProxy, Apache, Caddy, an ALB and Cloudflare relay them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.corpus import CORPUS
from tests.support.scripted import Scripted, without_ports
from tests.support.wire import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

SHARE = 0.99
"""Of the requests on the fast path's routes."""

REQUESTS = {path.stem: path.read_bytes() for path in sorted((CORPUS / "senders").glob("*.http"))}

OK = b'HTTP/1.1 200 OK\r\nDate: D\r\nContent-Type: text/json\r\nContent-Length: 15\r\n\r\n{"status":"Ok"}'

CLIENTS = ("curl", "posthog-js", "posthog-node", "posthog-python")
FRONTS = ("nginx-1.0", "nginx-1.1", "haproxy", "apache", "caddy")
BY_HTTP2 = ("nginx-h2", "haproxy-h2", "caddy-h2")


@dataclass(frozen=True, slots=True)
class Passed:
    """What became of one request: what the upstream got, and why it was not fast (empty: it was)."""

    up: bytes
    slow: str


def head_and_body(raw: bytes) -> list[bytes]:
    end = raw.index(b"\r\n\r\n") + 4
    return [raw[:end], raw[end:]] if raw[end:] else [raw]


async def passed(play: Scripted, pieces: Sequence[bytes]) -> Passed:
    """Send one request on a connection of its own, each piece when the one before has been read."""
    fast, missed, logged = play.fast, play.missed, len(play.lines())
    client = await play.client()
    sent = 0
    for piece in pieces:
        client.say(piece)
        sent += len(piece)
        await play.until(lambda: play.proxy.counters.fast_path > fast or bytes_in(play) == sent)  # noqa: B023
    status, _, _ = await client.hear_answer()
    assert status == 200
    client.hang_up()
    await play.until(lambda: not play.proxy.connections)
    assert len(play.lines()) == logged + 1
    reasons = [reason for reason, count in play.missed.items() if count > missed.get(reason, 0)]
    slow = "" if play.fast > fast else ", ".join(reasons) or "no reason was counted"
    return Passed(without_ports(play.up[-1]), slow)


def bytes_in(play: Scripted) -> int:
    return sum(connection.bytes_in for connection in play.proxy.connections)


async def through(cut: bool, fast: bool) -> dict[str, Passed]:
    """Send everything through one proxy that trusts its peer."""
    config = {"trust": {"proxies": ["127.0.0.1"]}, "cache": {"enabled": False}, "fast_path": fast}
    async with Scripted([OK], **config) as play:
        found = {
            name: await passed(play, head_and_body(raw) if cut else [raw]) for name, raw in REQUESTS.items()
        }
        assert len(play.up) == len(REQUESTS)
        return found


@pytest.mark.parametrize("cut", [False, True])
async def test_nearly_all_take_the_fast_path_and_none_is_changed_by_it(cut: bool) -> None:
    fast, general = await through(cut, True), await through(cut, False)
    assert {name: each.up for name, each in fast.items()} == {name: each.up for name, each in general.items()}
    slow = {name: each.slow for name, each in fast.items() if each.slow}
    assert len(slow) <= (1 - SHARE) * len(fast), slow


def test_the_corpus_has_all_senders_by_all_ways() -> None:
    assert len(REQUESTS) >= 60
    wanted = [f"{client}-" for client in CLIENTS]
    wanted += [f"{client}-via-{front}-" for client in CLIENTS for front in FRONTS]
    wanted += [f"{client}-via-{front}-" for client in ("curl", "posthog-js") for front in BY_HTTP2]
    wanted += ["alb-", "cloudflare-"]
    missing = [beginning for beginning in wanted if not any(name.startswith(beginning) for name in REQUESTS)]
    assert missing == []


@pytest.mark.parametrize("name", REQUESTS)
def test_each_file_is_one_whole_request(name: str) -> None:
    head, *rest = head_and_body(REQUESTS[name])
    length = Message(head).values("Content-Length") or [b"0"]
    assert [int(value) for value in length] == [len(b"".join(rest))]
