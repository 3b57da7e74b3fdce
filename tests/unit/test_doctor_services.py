from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from proxy.config.load import config_from
from proxy.doctor.asking import Reply, Where
from proxy.doctor.findings import Severity
from proxy.doctor.services import Clinic, cors, seen
from proxy.standin.server import Standin
from tests.support.service import Service


def clinic(url: str, *, wall: float | None = None, timeout: float = 10, **settings: Any) -> Clinic:
    config = config_from({"upstream": url, **settings}).config
    places = {"default": Where(("127.0.0.1", int(url.rpartition(":")[2])))}
    return Clinic(config, places, "ph.example", time.time() if wall is None else wall, timeout=timeout)


async def test_clocks_that_differ() -> None:
    async with Standin() as standin:
        late = await clinic(standin.url, wall=time.time() + 120).findings()
        early = await clinic(standin.url, wall=time.time() - 120).findings()
    found = [each for each in [*late, *early] if each.code == "clock"]
    assert [each.severity for each in found] == [Severity.WARNING] * 2
    assert "behind" in found[0].text
    assert "ahead of" in found[1].text


async def test_nothing_that_is_asked_is_an_event() -> None:
    async with Standin() as standin:
        await clinic(standin.url).findings("https://shop.example")
        assert not standin.events
        assert {request.ip["capture"] for request in standin.requests} == {"203.0.113.7"}


async def test_flags_that_refuse_an_unknown_token() -> None:
    async with Standin() as standin:
        standin.fail_with(401, paths=["/flags"])
        (finding,) = [each for each in await clinic(standin.url).findings() if each.code == "flags"]
    assert finding.text == "/flags answers 401 to an unknown token"


async def test_an_upstream_that_does_not_answer() -> None:
    async with Standin() as standin:
        standin.drop()
        found = await clinic(standin.url).findings("https://shop.example")
    assert {each.code for each in found} == {"no_answer", "client_address"}


async def test_what_the_access_rules_forbid_is_not_asked() -> None:
    async with Standin() as standin:
        rules = {"allowed_ip_blocks": ["10.0.0.0/8"]}
        found = await clinic(standin.url, access=rules).findings()
    assert "redirects" not in {each.code for each in found}


async def test_no_date_no_clock() -> None:
    async with Service() as service:
        asked = asyncio.ensure_future(clinic(service.url)._health())
        actor = await service.connection()
        actor.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        actor.hang_up()
        assert [each.code for each in await asked] == ["health"]


@pytest.mark.parametrize(
    ("body", "client", "severity"),
    [
        ({"ip": {"capture": "203.0.113.7", "gate": "403"}}, "203.0.113.7", Severity.OK),
        ({"ip": {"capture": "10.0.0.1"}}, "203.0.113.7", Severity.ERROR),
        ({"ip": {"capture": "8.8.8.8"}}, "", Severity.OK),
        ({"ip": {"capture": "10.0.0.1"}}, "", Severity.ERROR),
        ({"ip": {"capture": "unknown"}}, "", Severity.ERROR),
        ({"ip": 1}, "", None),
        ([], "", None),
    ],
)
def test_whom_the_stand_in_sees(body: Any, client: str, severity: Severity | None) -> None:
    finding = seen("default", Reply(200, (), json.dumps(body).encode()), client)
    assert (finding and finding.severity) == severity


@pytest.mark.parametrize(
    ("status", "lines", "severity"),
    [
        (204, [(b"Access-Control-Allow-Origin", b"https://a")], Severity.OK),
        (200, [(b"Access-Control-Allow-Origin", b"*")], Severity.OK),
        (
            200,
            [(b"Access-Control-Allow-Origin", b"*"), (b"Access-Control-Allow-Credentials", b"true")],
            Severity.ERROR,
        ),
        (301, [(b"Access-Control-Allow-Origin", b"https://a")], Severity.ERROR),
        (200, [], Severity.ERROR),
        (200, [(b"Access-Control-Allow-Origin", b"https://a")] * 2, Severity.ERROR),
    ],
)
def test_pre_flights(status: int, lines: list[tuple[bytes, bytes]], severity: Severity) -> None:
    assert cors("x", "https://a", Reply(status, tuple(lines), b"")).severity is severity
