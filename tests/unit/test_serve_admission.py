"""Passwords and the outside service, together and apart: who gets through, and what the others hear."""

from __future__ import annotations

import base64
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest

from tests.support.play import Play
from tests.support.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.play import Actor

OK = b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\n\r\nok"
YES = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
NO = b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"
ORIGIN = b"Origin: https://shop.example\r\n"


def basic(user: bytes, password: bytes) -> bytes:
    return b"Authorization: Basic " + base64.b64encode(user + b":" + password) + b"\r\n"


ANN = basic(b"ann", b"secret")
WRONG = basic(b"ann", b"wrong")
BEARER = b"Authorization: Bearer phx_1\r\n"


def get(*lines: bytes, target: bytes = b"/app") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: ph.example\r\n" + b"".join(lines) + b"\r\n"


@pytest.fixture
def users(tmp_path: Path) -> str:
    path = tmp_path / "users"
    path.write_bytes(b"ann:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)) + b"\n")
    return str(path)


@asynccontextmanager
async def stage(users: str, *, routes: Any = (), **access: Any) -> AsyncIterator[tuple[Play, Service, Actor]]:
    async with (
        Service() as service,
        Play(
            upstreams={"sso": {"url": service.url}},
            access={"basic_auth_file": users, **access},
            routes=list(routes),
        ) as play,
    ):
        yield play, service, await play.client()


async def passes(play: Play, client: Actor, request: bytes) -> bytes:
    """Send a request, let the upstream answer, and return the head that it saw."""
    client.say(request)
    upstream = await play.upstream()
    head = await upstream.hear_head()
    upstream.say(b"HTTP/1.1 200 OK\r\nDate: D\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
    status, _, _ = await client.hear_answer()
    assert status == 200
    return head


async def refused(client: Actor, request: bytes) -> tuple[int, bytes]:
    client.say(request)
    status, head, _ = await client.hear_answer()
    return status, head


async def test_without_a_password_there_is_a_challenge(users: str) -> None:
    async with stage(users, basic_realm="The app") as (play, _, client):
        for request in (get(), get(BEARER), get(ANN, ANN), get(b"Authorization: Basic !\r\n")):
            status, head = await refused(client, request)
            assert status == 401
            assert b'\r\nWWW-Authenticate: Basic realm="The app", charset="UTF-8"\r\n' in head
        assert play.unasked
        line = await play.line(4)
        assert line["error"].startswith("unauthorized: ")
        assert play.proxy.counters.rejected == {("unauthorized",): 4}


async def test_the_right_password_opens_and_goes_no_further(users: str) -> None:
    async with stage(users) as (play, _, client):
        head = await passes(play, client, get(ANN, b"Accept: */*\r\n"))
        assert b"\r\nAccept: */*\r\n" in head
        assert b"uthorization" not in head
        assert (await play.line())["status"] == 200


async def test_a_wrong_password_does_not(users: str) -> None:
    async with stage(users) as (play, _, client):
        for credentials in (WRONG, basic(b"bob", b"secret")):
            status, head = await refused(client, get(credentials))
            assert (status, b"WWW-Authenticate" in head) == (401, True)
        assert play.unasked
        # The connection is kept, and the next request may know better.
        await passes(play, client, get(ANN))


async def test_a_body_is_not_read_before(users: str) -> None:
    async with stage(users) as (play, _, client):
        client.say(
            b"POST /app HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 9\r\n"
            + WRONG
            + b"\r\n"
        )
        status, head, _ = await client.hear_answer()  # and no 100 before it
        assert (status, b"\r\nConnection: close\r\n" in head) == (401, True)
        assert play.unasked


async def test_sdks_need_no_password_and_keep_their_authorization(users: str) -> None:
    async with stage(users) as (play, _, client):
        target = b"/i/v1/analytics/events"
        for credentials in (b"", BEARER, ANN, WRONG):
            head = await passes(play, client, get(credentials, target=target))
            assert credentials in head
        await play.line(4)


async def test_a_bearer_read_needs_its_bearer_or_the_password(users: str) -> None:
    target = b"/api/feature_flag/local_evaluation"
    async with stage(users) as (play, _, client):
        assert BEARER in await passes(play, client, get(BEARER, target=target))
        assert b"uthorization" not in await passes(play, client, get(ANN, target=target))
        status, head = await refused(client, get(ORIGIN, target=target))
        assert status == 401
        assert b"\r\nAccess-Control-Allow-Origin: https://shop.example\r\n" in head


async def test_an_sdk_path_that_is_protected_by_a_route_asks_too(users: str) -> None:
    routes = [{"path": "/e", "access": "protected"}, {"path": "/api/*", "access": "bearer"}]
    async with stage(users, routes=routes) as (play, _, client):
        status, head = await refused(client, get(ORIGIN, target=b"/e?data=x"))
        assert status == 401
        assert b"\r\nAccess-Control-Allow-Origin: https://shop.example\r\n" in head
        await passes(play, client, get(ANN, target=b"/e"))
        assert play.proxy.counters.fast_path == 0
        assert BEARER in await passes(play, client, get(BEARER, target=b"/api/projects/"))
        assert (await refused(client, get(target=b"/api/projects/")))[0] == 401


async def test_too_many_checks_at_once(users: str) -> None:
    async with stage(users, basic_auth_checks=1) as (play, _, client):
        passwords = play.proxy._admission._passwords
        assert passwords is not None
        async with await play.client() as other:
            passwords._most = 0
            status, head = await refused(other, get(ANN))
            assert (status, b"\r\nRetry-After: 2\r\n" in head) == (503, True)
            assert (await play.line())["error"].startswith("password_checks_full: ")
            passwords._most = 1
        await passes(play, client, get(ANN))


class TestWithAService:
    async def test_both_are_demanded(self, users: str) -> None:
        async with stage(users, forward_auth="sso") as (play, service, client):
            assert (await refused(client, get()))[0] == 401
            assert (await refused(client, get(WRONG)))[0] == 401
            assert service.unasked  # whoever has no password is not asked about
            client.say(get(ANN))
            asked = await service.connection()
            assert b"uthorization" not in await asked.hear_head()  # the password was ours
            asked.say(NO)
            assert (await client.hear_answer())[0] == 403
            client.say(get(ANN))
            await asked.hear_head()
            asked.say(YES)
            assert b"uthorization" not in await (await play.upstream()).hear_head()

    async def test_either_will_do(self, users: str) -> None:
        async with stage(users, forward_auth="sso", satisfy="any") as (play, service, client):
            await passes(play, client, get(ANN))
            assert service.unasked
            client.say(get(WRONG))
            asked = await service.connection()
            assert WRONG in await asked.hear_head()  # not ours, so it may be theirs
            asked.say(YES)
            upstream = await play.upstream()
            assert WRONG in await upstream.hear_head()
            upstream.say(OK)
            await client.hear(OK)
            client.say(get())
            await asked.hear_head()
            asked.say(NO)
            assert (await client.hear_answer())[0] == 403

    async def test_an_address_will_do(self, users: str) -> None:
        blocks = ["127.0.0.0/8"]
        async with stage(users, allowed_ip_blocks=blocks, satisfy="any") as (play, _, client):
            assert ANN in await passes(play, client, get(ANN))  # nobody asked for it here
            await passes(play, client, get())


async def test_nothing_runs_on_when_the_proxy_closes(users: str) -> None:
    async with stage(users) as (play, _, client):
        client.say(get(WRONG))
        await play.until(lambda: any(c.exchange for c in play.proxy.connections))
        await play.proxy.close()
        assert repr(play.proxy._admission._passwords).startswith("<Passwords users=1 running=0 ")
