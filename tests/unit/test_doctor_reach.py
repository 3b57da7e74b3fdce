from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.config.load import config_from
from proxy.doctor import reach
from proxy.doctor.findings import Severity
from tests.support.service import Service
from tests.support.tls import self_signed

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from proxy.config.schema import UpstreamConfig


def upstream(url: str, **settings: object) -> UpstreamConfig:
    return config_from({"upstream": url, "upstreams": {"default": settings}}).config.upstreams["default"]


async def test_one_address_of_two_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolved(*_: object) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    monkeypatch.setattr(reach, "_resolved", resolved)
    async with Service() as service:
        place, found = await reach.reach("default", upstream(service.url), 0.0, timeout=10)
    assert place is not None
    assert place.address == ("127.0.0.1", int(service.url.rpartition(":")[2]))
    assert [each.severity for each in found] == [Severity.WARNING, Severity.OK]
    assert found[0].text.endswith("(others work)")


async def test_all_addresses_of_a_name() -> None:
    async with Service() as service:
        url = service.url.replace("127.0.0.1", "localhost")
        place, found = await reach.reach("default", upstream(url), 0.0, timeout=10)
    assert place is not None
    assert any(each.code == "connect" and each.severity is Severity.OK for each in found)


async def test_a_unix_socket(tmp_path: Path) -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        closed.set()

    path = str(tmp_path / "socket")
    async with await asyncio.start_unix_server(serve, path):
        place, _ = await reach.reach("default", upstream(f"unix:{path}"), 0.0, timeout=10)
        await closed.wait()
    assert place is not None
    assert place.address == path
    place, found = await reach.reach("default", upstream(f"unix:{path}x"), 0.0, timeout=10)
    assert place is None
    assert "No such file" in found[0].text


async def test_who_accepts_and_says_nothing_is_late_with_tls(tmp_path: Path) -> None:
    made = self_signed(tmp_path, "a.test")
    async with Service() as service:
        settings = upstream(service.url.replace("http:", "https:"), ca_file=str(made.certificate))
        place, found = await reach.reach("default", settings, 0.0, timeout=0.05)
    assert place is None
    assert found[0].text.endswith("does not let connect within 0.05 s")
