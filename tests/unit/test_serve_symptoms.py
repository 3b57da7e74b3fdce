"""The detectors in a running proxy: counted each time, said once a minute, on both paths."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.rules.symptoms import CURES, FEWEST_REQUESTS, Loop, Symptom
from proxy.serve.symptoms import SAY_INTERVAL, SAY_INTERVAL_CLIENTS
from tests.support.play import Actor, Play

EVENT = b"POST /e/ HTTP/1.1\r\nHost: ph.example\r\nContent-Length: 5\r\n\r\nhello"
OK = b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
PAGE = b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nlogin"
HTTPS = b"HTTP/1.1 301 Moved\r\nDate: D\r\nLocation: https://ph.example/e/\r\nContent-Length: 0\r\n\r\n"


class Watched(Play):
    """A proxy whose error log is read."""

    upstream_actor: Actor | None = None

    async def ask(self, client: Actor, answer: bytes, request: bytes = EVENT) -> int:
        """One request and its answer."""
        client.say(request)
        if self.upstream_actor is None:
            self.upstream_actor = await self.upstream()
        await self.upstream_actor.hear_head()
        if request.endswith(b"hello"):
            await self.upstream_actor.hear(b"hello")
        self.upstream_actor.say(answer)
        status = (await client.hear_answer())[0]
        await self.until(lambda: self.proxy.counters.requests_in_flight == 0)
        return status

    def later(self, seconds: float) -> None:
        """Time passes, and the proxy closes what was idle."""
        self.turn(seconds)
        self.upstream_actor = None

    def said(self) -> list[dict[str, Any]]:
        self.proxy.sweep()
        known = {symptom.value for symptom in Symptom}
        lines = [json.loads(line) for line in self.errors.splitlines()]
        return [line for line in lines if line["event"] in known]

    def counted(self, name: str) -> Any:
        return self.proxy.counters.snapshot()[f"posthog_proxy_{name}"]


@pytest.mark.parametrize("fast_path", [True, False])
async def test_a_page_on_an_sdk_path(fast_path: bool) -> None:
    async with Watched(fast_path=fast_path) as play:
        client = await play.client()
        for _ in range(3):
            assert await play.ask(client, PAGE) == 200
        assert play.counted("html_on_sdk_path_total") == {'route="/e",upstream="default"': 3}
        (line,) = play.said()
        assert (line["event"], line["path"], line["route"]) == ("html_on_sdk_path", "/e/", "/e")
        assert line["cure"] == CURES[Symptom.HTML]
        play.later(SAY_INTERVAL)
        await play.ask(client, PAGE)
        assert len(play.said()) == 2


@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize(
    ("config", "line", "loop"),
    [
        ({}, b"", Loop.SCHEME),
        ({}, b"X-Forwarded-Proto: https\r\n", Loop.SCHEME),
        ({"trust": {"all": True}}, b"X-Forwarded-Proto: https\r\n", Loop.ITSELF),
    ],
)
async def test_a_redirect_to_itself(fast_path: bool, config: dict[str, Any], line: bytes, loop: Loop) -> None:
    async with Watched(fast_path=fast_path, **config) as play:
        client = await play.client()
        assert await play.ask(client, HTTPS, EVENT.replace(b"Content", line + b"Content")) == 301
        assert play.counted("redirect_loop_total") == {f'kind="{loop.value}"': 1}
        (said,) = play.said()
        assert (said["event"], said["kind"], said["cure"]) == ("redirect_loop", loop.value, CURES[loop])


async def test_a_plain_upgrade_is_none() -> None:
    async with Watched(trust={"all": True}) as play:
        request = EVENT.replace(b"Content", b"X-Forwarded-Proto: http\r\nContent")
        assert await play.ask(await play.client(), HTTPS, request) == 301
        assert (play.counted("redirect_loop_total"), play.said()) == ({}, [])


async def test_recordings_that_are_cut_off_here_and_behind() -> None:
    async with Watched(limits={"body_replay": 1024}) as play:
        client = await play.client()
        too_large = b"HTTP/1.1 413 Too Large\r\nDate: D\r\nContent-Length: 0\r\n\r\n"
        assert await play.ask(client, too_large, EVENT.replace(b"/e/", b"/s/")) == 413
        client.say(b"POST /s/ HTTP/1.1\r\nHost: ph.example\r\nContent-Length: 1025\r\n\r\n")
        assert (await client.hear_answer())[0] == 413
        chunked = await play.client()
        chunked.say(b"POST /s/ HTTP/1.1\r\nHost: ph.example\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunked.say(b"401\r\n" + b"x" * 1025 + b"\r\n0\r\n\r\n")
        assert (await chunked.hear_answer())[0] == 413
        assert play.counted("replay_too_large_total") == 3
        (line,) = play.said()
        assert (line["event"], line["limit"]) == ("replay_too_large", 1024)


async def many(play: Watched, addresses: list[bytes]) -> None:
    """A minute of requests, one between two sweeps."""
    client = await play.client()
    for address in addresses:
        play.turn(0.25)
        await play.ask(client, OK, EVENT.replace(b"Content", b"X-Forwarded-For: %b\r\nContent" % address))
    play.later(60)


@pytest.mark.parametrize("fast_path", [True, False])
async def test_most_requests_from_one_address(fast_path: bool) -> None:
    async with Watched(trust={"all": True}, fast_path=fast_path) as play:
        await many(play, [b"93.184.216.7"] * FEWEST_REQUESTS)
        (line,) = play.said()
        assert (line["event"], line["client"]) == ("one_client_ip", "93.184.216.7")
        await many(play, [b"93.184.216.7"] * FEWEST_REQUESTS)
        assert len(play.said()) == 1
        assert play.counted("one_client_ip_total") == 2
        play.later(SAY_INTERVAL_CLIENTS)
        await many(play, [b"93.184.216.7"] * FEWEST_REQUESTS)
        assert len(play.said()) == 2


async def test_most_requests_from_private_addresses() -> None:
    async with Watched() as play:
        await many(play, [b"93.184.216.7"] * FEWEST_REQUESTS)  # from a proxy that is not trusted
        (line,) = play.said()
        assert (line["event"], line["client"]) == ("client_ip_suspect", "127.0.0.1")
        assert "trust.proxies" in line["cure"]


async def test_many_addresses_are_well() -> None:
    async with Watched(trust={"all": True}) as play:
        await many(play, [b"93.184.216.%d" % (number % 50) for number in range(FEWEST_REQUESTS)])
        assert play.said() == []


async def test_an_upstream_that_only_fails() -> None:
    async with Watched(health={"breaker": False}) as play:
        client = await play.client()
        sick = b"HTTP/1.1 503 Sick\r\nDate: D\r\nContent-Length: 0\r\n\r\n"
        play.turn(30)
        await play.ask(client, sick)
        play.later(30)
        (line,) = play.said()
        assert (line["event"], line["upstream"]) == ("upstream_without_success", "default")
        assert line["url"] == f"http://127.0.0.1:{play.port}"
        assert play.counted("upstream_without_success_total") == {'upstream="default"': 1}
        play.later(30)
        client = await play.client()
        await play.ask(client, OK)
        play.turn(60)
        assert len(play.said()) == 1
        assert repr(play.proxy._runtime.symptoms) == "<Symptoms said=['upstream_without_success']>"
