from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from proxy.doctor.through import place, through
from proxy.standin.server import Standin
from tests.support.service import Service
from tests.support.tls import self_signed

if TYPE_CHECKING:
    from pathlib import Path


def test_where_a_public_name_leads(tmp_path: Path) -> None:
    where, host = place("http://ph.example:81/x")
    assert (where.address, where.tls, host) == (("ph.example", 81), None, "ph.example:81")
    made = self_signed(tmp_path, "ph.example")
    where, host = place("https://ph.example", str(made.certificate))
    assert (where.address, where.server_name, host) == (("ph.example", 443), "ph.example", "ph.example")
    assert where.tls is not None
    assert len(where.tls.get_ca_certs()) == 1


@pytest.mark.parametrize("url", ["ph.example", "ftp://ph.example", "https://", "http://a:x"])
def test_what_is_no_public_name(url: str) -> None:
    with pytest.raises(ValueError):
        place(url)


def test_an_authority_that_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=re.escape("/none: No such file")):
        place("https://ph.example", "/none")


async def test_a_door_that_does_not_open(tmp_path: Path) -> None:
    made = self_signed(tmp_path, "a.test")
    async with Service() as service:
        url = service.url.replace("http:", "https:")
        (finding,) = await through(url, 0.0, origin="", ca_file=str(made.certificate), timeout=0.05)
        assert "does not let connect" in finding.text
        await service.stop()
    (finding,) = await through(service.url, 0.0, origin="", ca_file="", timeout=10)
    assert (finding.code, finding.severity.name) == ("no_answer", "ERROR")


async def test_an_upstream_that_fails_on_bodies() -> None:
    async with Standin() as standin:
        standin.fail_with(502, paths=["/s"])
        found = await through(standin.url, 0.0, origin="https://a", ca_file="", timeout=10)
    assert [(each.code, each.severity.name) for each in found] == [
        ("body_cap", "OK"),
        ("body_cap", "ERROR"),
        ("cors", "OK"),
        ("client_address", "ERROR"),
    ]


async def test_a_front_that_hangs_up() -> None:
    async with Standin() as standin:
        standin.drop()
        found = await through(standin.url, 0.0, origin="https://a", ca_file="", timeout=10)
    assert [(each.code, each.severity.name) for each in found] == [
        ("body_cap", "ERROR"),
        ("body_cap", "ERROR"),
        ("no_answer", "ERROR"),
    ]
    assert "closed without an answer" in found[0].text
