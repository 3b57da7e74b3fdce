"""Who may ask the admin listener."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from proxy.admin.guard import denial
from tests.support.asking import request

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN = b"0123456789abcdef"


def status(
    path: str = "/metrics",
    *,
    token: bytes = b"",
    unix: bool = False,
    method: str = "GET",
    host: str = "localhost",
    **fields: str,
) -> int:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    refusal = denial(request(path, method=method, host=host, fields=named), token, unix=unix)
    return 200 if refusal is None else refusal.status


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"me:{password}".encode()).decode()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9100", "127.0.0.1:9100", "[::1]:9100", "10.0.0.1"])
def test_without_a_token_it_is_asked_by_address(host: str) -> None:
    assert status(host=host) == 200


@pytest.mark.parametrize("host", ["rebound.example", "127.0.0.1.example:9100", "localhost.example"])
def test_a_name_that_a_stranger_can_point_here_is_refused(host: str) -> None:
    assert status(host=host) == 403
    assert status(host=host, unix=True) == 200
    assert status("/readyz", host=host) == 200
    assert status(host=host, token=TOKEN, Authorization=f"Bearer {TOKEN.decode()}") == 200


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 401),
        ({"Authorization": "Bearer 0123456789abcdef"}, 200),
        ({"Authorization": "bearer 0123456789abcdef"}, 200),
        ({"Authorization": basic("0123456789abcdef")}, 200),
        ({"Authorization": "Bearer 0123456789abcdeg"}, 401),
        ({"Authorization": basic("")}, 401),
        ({"Authorization": "Basic no=base64"}, 401),
        ({"Authorization": "Digest 0123456789abcdef"}, 401),
    ],
)
def test_with_a_token_it_is_asked_for(fields: Mapping[str, str], expected: int) -> None:
    assert status(token=TOKEN, **fields) == expected
    assert status(token=TOKEN, unix=True, **fields) == expected


def test_health_needs_none() -> None:
    assert status("/healthz", token=TOKEN) == status("/readyz", token=TOKEN) == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_no_page_can_give_a_command(site: str) -> None:
    assert status("/drain", method="POST", Origin="http://evil.example") == 403
    assert status("/drain", method="POST", Origin="null", unix=True) == 403
    assert status("/drain", method="POST", Sec_Fetch_Site=site) == 403
    assert status("/drain", method="POST", Sec_Fetch_Site="none") == 200
    assert status("/drain", method="POST") == 200
