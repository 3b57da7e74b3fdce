"""The outside service, played: what it is asked for each request, and what becomes of its answers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from proxy.rules.forward_auth import BODY_LIMIT
from tests.support.play import Play
from tests.support.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GET = b"GET /app?x HTTP/1.1\r\nHost: ph.example\r\nCookie: c=1\r\nRemote-User: root\r\n\r\n"
YES = b"HTTP/1.1 202 Accepted\r\nRemote-User: ann\r\nSet-Cookie: s=1\r\nContent-Length: 3\r\n\r\nyes"
OK = b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def stage(**access: Any) -> AsyncIterator[tuple[Play, Service]]:
    settings = {"forward_auth": "sso", "forward_auth_path": "/auth", "forward_auth_copy": ["Remote-User"]}
    async with (
        Service() as service,
        # No further tries: those wait on a clock that stands still.
        Play(upstreams={"sso": {"url": service.url}}, access=settings | access, pool={"retries": 0}) as play,
    ):
        yield play, service


async def test_consent_lets_the_request_through_with_what_it_vouches_for() -> None:
    async with stage() as (play, service):
        client = await play.client()
        client.say(GET)
        asked = await service.connection()
        question = (await asked.hear_head()).split(b"\r\n")
        assert [line for line in question if not line.startswith((b"X-Request-Id", b"X-Forwarded-Port"))] == [
            b"GET /auth HTTP/1.1",
            b"Host: ph.example",
            b"Cookie: c=1",
            b"X-Forwarded-For: 127.0.0.1",
            b"X-Forwarded-Proto: http",
            b"X-Forwarded-Host: ph.example",
            b"X-Forwarded-Method: GET",
            b"X-Forwarded-Uri: /app?x",
            b"",
            b"",
        ]
        assert play.unasked  # nothing went upstream before
        asked.say(YES)
        upstream = await play.upstream()
        head = await upstream.hear_head()
        assert b"\r\nRemote-User: ann\r\n" in head
        assert b"root" not in head
        assert b"s=1" not in head
        upstream.say(OK)
        await client.hear(OK)


async def test_its_connection_is_kept_and_a_stale_one_replaced() -> None:
    async with stage() as (play, service):
        client = await play.client()
        asked = await service.connection_after(client, GET)
        asked.say(YES)
        upstream = await play.upstream()
        for again in (False, True):
            await upstream.hear_head()
            upstream.say(OK)
            await client.hear(OK)
            if again:
                break
            client.say(GET)
            await asked.hear_head()  # on the same connection
            asked.hang_up()  # which dies without an answer
            asked = await service.connection()
            await asked.hear_head()
            asked.say(YES)
        assert (await play.line(2))["status"] == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_its_refusal_is_the_clients(method: str) -> None:
    async with stage() as (play, service):
        client = await play.client()
        body = "Content-Length: 5\r\n\r\nhello" if method == "POST" else "\r\n"
        asked = await service.connection_after(
            client, f"{method} /app HTTP/1.1\r\nHost: ph.example\r\n{body}".encode()
        )
        asked.say(
            b"HTTP/1.1 302 Found\r\nLocation: https://login/\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
            b"Content-Type: text/plain\r\nContent-Length: 5\r\nServer: sso\r\n\r\nlogin"
        )
        head = await client.hear_head()
        assert head.startswith(b"HTTP/1.1 302 Found\r\n")
        for line in (
            b"Location: https://login/",
            b"Set-Cookie: a=1",
            b"Set-Cookie: b=2",
            b"Content-Length: 5",
        ):
            assert b"\r\n" + line + b"\r\n" in head
        assert b"Server" not in head
        if method != "HEAD":
            await client.hear(b"login")
        line_ = await play.line()
        assert (line_["status"], line_["origin"]) == (302, "proxy")
        assert line_["error"].startswith("forward_auth_denied: ")
        assert play.proxy.counters.rejected == {("forward_auth_denied",): 1}
        assert play.unasked
        # An unread body ends the connection; else it is kept.
        assert (b"\r\nConnection: close\r\n" in head) is (method == "POST")


async def test_a_body_that_is_too_long_is_left_out() -> None:
    async with stage() as (play, service):
        client = await play.client()
        asked = await service.connection_after(client, GET)
        length = BODY_LIMIT * 4
        asked.say(b"HTTP/1.1 403 No\r\nContent-Type: a/b\r\nContent-Length: %d\r\n\r\n" % length)
        asked.say(b"x" * length)
        status, head, body = await client.hear_answer()
        assert (status, b"application/json" in head) == (403, True)
        assert b"forward_auth_denied" in body
        await asked.hear_end()  # and what is left of it is not waited for


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 304 x\r\n\r\n"])
async def test_no_usable_answer_lets_nobody_through(answer: bytes) -> None:
    async with stage() as (play, service):
        client = await play.client()
        asked = await service.connection_after(client, GET)
        asked.say(answer)
        asked.hang_up()
        status, head, _ = await client.hear_answer()
        assert status == 503
        assert b"\r\nRetry-After: 5\r\n" in head
        assert play.unasked
        line = await play.line()
        assert line["error"].startswith("forward_auth_unreachable: ")


async def test_a_service_that_is_not_there_is_said_now_and_then() -> None:
    async with stage() as (play, service):
        await service.stop()
        client = await play.client()
        for _ in range(2):
            client.say(GET)
            assert (await client.hear_answer())[0] == 503
        play.proxy.sweep()
        assert play.errors.count(b'"event":"forward_auth_unreachable"') == 1
        play.turn(10)
        client.say(GET)
        assert (await client.hear_answer())[0] == 503
        play.proxy.sweep()
        assert play.errors.count(b'"event":"forward_auth_unreachable"') == 2


async def test_a_late_service_lets_nobody_through() -> None:
    async with stage(forward_auth_timeout=2) as (play, service):
        client = await play.client()
        asked = await service.connection_after(client, GET)
        asked.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")  # and never the body
        play.turn(3)
        assert (await client.hear_answer())[0] == 503
        assert play.unasked


async def test_a_client_that_leaves_takes_its_question_with_it() -> None:
    async with stage() as (play, service):
        client = await play.client()
        asked = await service.connection_after(client, GET)
        client.hang_up()
        await asked.hear_end()  # the connection is not kept with an answer to come
        line = await play.line()
        assert line["status"] == 499
        assert play.unasked


async def test_sdk_paths_do_not_ask() -> None:
    async with stage() as (play, service):
        client = await play.client()
        client.say(b"POST /e/ HTTP/1.1\r\nHost: h\r\nRemote-User: root\r\nContent-Length: 2\r\n\r\nhi")
        upstream = await play.upstream()
        head = await upstream.hear_head()
        assert b"root" not in head
        upstream.say(OK)
        await client.hear(OK)
        assert service.unasked


async def test_a_websocket_is_asked_about_too() -> None:
    upgrade = (
        b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with stage() as (play, service):
        client = await play.client()
        client.say(upgrade)
        asked = await service.connection()
        question = await asked.hear_head()
        assert b"pgrade" not in question
        asked.say(b"HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n")
        status, head, _ = await client.hear_answer()
        assert (status, b"WWW-Authenticate: Bearer\r\n" in head) == (401, True)
        assert play.unasked
        client.say(upgrade)
        await asked.hear_head()
        asked.say(YES)
        head = await (await play.upstream()).hear_head()
        assert b"\r\nUpgrade: websocket\r\n" in head
        assert b"\r\nRemote-User: ann\r\n" in head
