from __future__ import annotations

import asyncio
import http.client
import re
import ssl
from typing import TYPE_CHECKING

import pytest

from proxy.doctor.asking import MOST, ProbeError, Where, ask, described, parsed
from tests.support.service import Service

if TYPE_CHECKING:
    from pathlib import Path

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def at(service: Service) -> Where:
    return Where(("127.0.0.1", int(service.url.rpartition(":")[2])))


async def test_a_question_and_its_answer() -> None:
    async with Service() as service:
        asked = asyncio.ensure_future(ask(at(service), HEAD, b"body", timeout=10))
        actor = await service.connection()
        await actor.hear(HEAD + b"body")
        actor.say(
            b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        )
        actor.hang_up()
        reply = await asked
    assert (reply.status, reply.body, reply.get("x-a"), reply.get("x-b")) == (200, b"ok", "1, 2", "")


async def test_an_answer_before_the_body_is_sent() -> None:
    async with Service() as service:
        asked = asyncio.ensure_future(ask(at(service), HEAD, bytes(50_000_000), timeout=10))
        actor = await service.connection()
        await actor.hear_head()
        actor.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        actor.writer.write_eof()
        assert (await asked).status == 413


async def test_a_body_waits_for_leave() -> None:
    async with Service() as service:
        for first in (b"HTTP/1.1 100 Continue\r\n\r\n", b""):
            patience = 10 if first else 0.01
            asked = asyncio.ensure_future(ask(at(service), HEAD, b"body", timeout=10, patience=patience))
            actor = await service.connection()
            await actor.hear(HEAD)
            actor.say(first)
            await actor.hear(b"body")
            actor.say(b"HTTP/1.1 204 No Content\r\n\r\n")
            actor.hang_up()
            assert (await asked).status == 204


async def test_a_body_that_is_refused_is_not_sent() -> None:
    async with Service() as service:
        asked = asyncio.ensure_future(ask(at(service), HEAD, b"body", timeout=10, patience=10))
        actor = await service.connection()
        await actor.hear(HEAD)
        actor.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        actor.writer.write_eof()
        assert (await asked).status == 413
        assert await actor.hear_end() == b""


async def test_no_more_is_read_than_needed() -> None:
    async with Service() as service:
        asked = asyncio.ensure_future(ask(at(service), HEAD, timeout=10))
        actor = await service.connection()
        actor.say(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(2 * MOST))
        assert MOST - 100 < len((await asked).body) < 2 * MOST


async def test_a_unix_socket_and_what_comes_first(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(b"first" + HEAD))
        writer.write(b"HTTP/1.0 204 No Content\r\n\r\n")
        writer.close()

    path = str(tmp_path / "socket")
    async with await asyncio.start_unix_server(serve, path):
        assert (await ask(Where(path, opening=b"first"), HEAD, timeout=10)).status == 204
    assert str(Where(path)) == path


async def test_nobody_answers() -> None:
    async with Service() as service:
        with pytest.raises(ProbeError, match=re.escape("has not answered within 0.05 s")):
            await ask(at(service), HEAD, timeout=0.05)
    async with Service() as service:
        asked = asyncio.ensure_future(ask(at(service), HEAD, timeout=10))
        (await service.connection()).hang_up()
        with pytest.raises(ProbeError, match="closed without an answer"):
            await asked
        where = at(service)
        await service.stop()
    with pytest.raises(ProbeError, match=r"(?i)connect"):
        await ask(where, HEAD, timeout=10)


async def test_tls_where_there_is_none() -> None:
    async with Service() as service:
        where = Where(at(service).address, ssl.create_default_context(), "a")
        asked = asyncio.ensure_future(ask(where, HEAD, timeout=10))
        (await service.connection()).say(b"HTTP/1.1 400 Bad\r\n\r\n")
        with pytest.raises(ProbeError, match="WRONG_VERSION_NUMBER"):
            await asked


def test_a_body_that_is_cut_is_taken_as_it_is() -> None:
    assert parsed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").body == b"abc"
    assert parsed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"HEAD").body == b""


def test_what_is_no_http() -> None:
    with pytest.raises(http.client.BadStatusLine):
        parsed(b"SSH-2.0\r\n")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (http.client.BadStatusLine("x"), "no HTTP: x"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (ValueError(), "ValueError"),
        (ssl.SSLError("odd"), "('odd',)"),
    ],
)
def test_errors_in_one_line(error: Exception, text: str) -> None:
    assert described(error) == text
