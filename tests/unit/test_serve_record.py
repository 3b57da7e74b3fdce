"""The access record as it is written for each kind of ending."""

from __future__ import annotations

import json

import pytest

from tests.support.play import Play
from tests.unit.test_serve_exchange import EVENT, GET, OK

CHAIN = EVENT.replace(
    b"\r\n\r\n",
    b"\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.1.1.1\r\nUser-Agent: posthog-python/7.91.1\r\n\r\n",
    1,
)


async def test_a_forwarded_request_names_client_route_times_and_sdk() -> None:
    async with Play(trust={"proxies": ["127.0.0.1", "10.0.0.0/8"]}) as play:
        client = await play.client()
        client.say(CHAIN[:30])
        await play.until(lambda: any(c.received for c in play.proxy.connections))
        play.turn(0.5)
        client.say(CHAIN[30:])
        upstream = await play.upstream()
        await upstream.hear_head()
        play.turn(0.25)
        upstream.say(OK)
        await client.hear(OK)
        line = await play.line()
    assert line["client_ip"] == "203.0.113.7"
    assert (line["client_ip_source"], line["trusted_hops"], line["peer"]) == (
        "x_forwarded_for",
        2,
        "127.0.0.1",
    )
    assert (line["route"], line["class"], line["upstream"]) == ("/e", "ingest_v0", "default")
    assert (line["sdk"], line["sdk_version"]) == ("posthog-python", "7.91.1")
    assert (line["t_head"], line["t_first_byte"], line["t_total"]) == (0.5, 0.25, 0.75)
    assert line["upstream_addr"].startswith("127.0.0.1:")
    assert line["listener"].startswith("127.0.0.1:")
    assert len(line["request_id"]) == 36


async def test_the_request_id_in_the_log_is_the_one_sent_upstream() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(GET)
        upstream = await play.upstream()
        head = await upstream.hear_head()
        upstream.say(OK)
        await client.hear(OK)
        line = await play.line()
    assert f"X-Request-Id: {line['request_id']}\r\n".encode() in head


async def test_addresses_are_anonymised_in_the_log_too() -> None:
    async with Play(trust={"proxies": ["127.0.0.0/8"]}, forwarding={"anonymise": True}) as play:
        client = await play.client()
        client.say(CHAIN.replace(b", 10.1.1.1", b""))
        upstream = await play.upstream()
        assert b"X-Forwarded-For: 203.0.113.0\r\n" in await upstream.hear_head()
        upstream.say(OK)
        await client.hear(OK)
        line = await play.line()
    assert (line["client_ip"], line["peer"]) == ("203.0.113.0", "127.0.0.0")


async def test_dropped_lines_and_private_clients_are_counted() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(GET.replace(b"\r\n\r\n", b"\r\nX_Forwarded_For: 1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\n\r\n"))
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(OK)
        await client.hear(OK)
        await play.line()
        counters = play.proxy.counters
    assert counters.dropped_headers[("managed",)] == 1
    assert counters.client_ip_suspect == 1
    assert counters.requests[("app", "protected", "GET", "2xx")] == 1
    assert counters.request_bytes > 0
    assert counters.response_bytes == len(OK)


@pytest.mark.parametrize(
    ("config", "request_", "termination", "status", "error"),
    [
        ({}, GET.replace(b"/app", b"/metrics"), "PR", 404, "never_public"),
        ({"access": {"allowed_hosts": ["x.example"]}}, GET, "PR", 421, "host_not_allowed"),
        ({}, b"nonsense\r\n\r\n", "PR", 400, "bad_request_line"),
    ],
)
async def test_a_refusal_says_why(
    config: dict[str, object], request_: bytes, termination: str, status: int, error: str
) -> None:
    async with Play(**config) as play:
        client = await play.client()
        client.say(request_)
        await client.hear_answer()
        line = await play.line()
    assert (line["termination"], line["status"], line["origin"]) == (termination, status, "proxy")
    assert line["error"].startswith(error)


async def test_a_refused_connection_ends_in_the_connect_phase_and_counts_against_the_upstream() -> None:
    async with Play(pool={"retries": 0}) as play:
        await play.stop_upstream()
        client = await play.client()
        client.say(GET)
        await client.hear_answer()
        line = await play.line()
        assert line["termination"] == "SC"
        assert line["error"].startswith("connect_refused")
        assert play.proxy.counters.failures[("default", "connect_refused")] == 1


async def test_an_open_breaker_ends_in_the_queue() -> None:
    async with Play(pool={"retries": 0}, health={"consecutive_failures": 1}) as play:
        await play.stop_upstream()
        for termination in ("SC", "SQ"):
            client = await play.client()
            client.say(EVENT)
            status, head, _ = await client.hear_answer()
            assert status == 503
            assert b"Retry-After: " in head
            play.proxy.sweep()
            assert json.loads(play.access.splitlines()[-1])["termination"] == termination


async def test_text_lines_are_for_eyes() -> None:
    async with Play(log={"format": "text"}) as play:
        client = await play.client()
        client.say(GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(OK)
        await client.hear(OK)
        await play.until(lambda: play.proxy.counters.requests_in_flight == 0)
        play.proxy.sweep()
    assert b" 127.0.0.1 GET ph.example/app 200 upstream " in play.access


@pytest.mark.parametrize("fast", [True, False])
async def test_a_slow_request_is_told_and_always_logged(fast: bool) -> None:
    async with Play(fast_path=fast, log={"slow": 5, "sample": 0}) as play:
        client = await play.client()
        for seconds in (1, 6):
            client.say(GET)
            upstream = await play.upstream()
            await upstream.hear_head()
            play.clock.now += seconds
            upstream.say(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            await client.hear_answer()
        line = await play.line()
        assert line["t_total"] == 6
        play.proxy.sweep()
        [told] = [json.loads(each) for each in play.errors.splitlines() if b"slow_request" in each]
        assert (told["request_id"], told["t_total"], told["t_first_byte"]) == (line["request_id"], 6, 6)
        assert told["cure"]


async def test_an_answer_that_the_upstream_cuts_is_told() -> None:
    async with Play(fast_path=False) as play:
        client = await play.client()
        client.say(GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 9\r\n\r\nhalf")
        upstream.hang_up()
        await client.hear_end()
        line = await play.line()
        play.proxy.sweep()
        [told] = [json.loads(each) for each in play.errors.splitlines() if b"truncated_answer" in each]
        assert (told["request_id"], told["cure"]) == (
            line["request_id"],
            "look at the upstream's log for this request id",
        )


async def test_clients_may_be_told_the_ids_of_their_requests() -> None:
    async with Play(forwarding={"answer_request_id": True}, pool={"retries": 0}) as play:
        client = await play.client()
        for fail in (False, True):
            client.say(GET)
            if not fail:
                upstream = await play.upstream()
                await upstream.hear_head()
                upstream.say(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                await play.stop_upstream()
            _, head, _ = await client.hear_answer()
            line = await play.line(1 + fail)
            assert head.endswith(f"\r\nX-Request-Id: {line['request_id']}\r\n\r\n".encode())
