"""What an answer or a minute of traffic betrays, and what betrays nothing."""

from __future__ import annotations

import pytest

from proxy.message import EndpointClass, Fields
from proxy.rules.symptoms import (
    CURES,
    FEWEST_REQUESTS,
    FEWEST_SAMPLES,
    SILENT,
    WINDOW,
    Asked,
    Loop,
    Symptom,
    Traffic,
    betrays,
    is_page_for_sdk,
    is_replay_cut_off,
    is_silent,
    redirect_loop,
)

HTML: Fields = ((b"Content-Type", b"Text/HTML; charset=utf-8"),)
JSON: Fields = ((b"Content-Type", b"application/json"),)
APP, EVENTS, REPLAY = EndpointClass.PROTECTED, EndpointClass.INGEST_V0, EndpointClass.REPLAY


def test_every_symptom_has_its_cure() -> None:
    assert set(CURES) == {*Symptom, *Loop}
    assert "trust.proxies" in CURES[Symptom.PRIVATE]


@pytest.mark.parametrize(
    ("cls", "status", "fields", "page"),
    [
        (EVENTS, 200, HTML, True),
        (EVENTS, 302, HTML, True),
        (EndpointClass.FLAGS, 404, HTML, True),
        (EndpointClass.SDK_READ, 200, ((b"content-type", b"application/xhtml+xml"),), True),
        (EVENTS, 200, JSON, False),
        (EVENTS, 200, (), False),
        (EVENTS, 502, HTML, False),
        (EVENTS, 413, HTML, False),
        (EVENTS, 429, HTML, False),
        (APP, 200, HTML, False),
        (EndpointClass.PUBLIC, 200, HTML, False),
    ],
)
def test_a_page_where_an_sdk_expects_none(
    cls: EndpointClass, status: int, fields: Fields, page: bool
) -> None:
    assert is_page_for_sdk(cls, status, fields) is page


def test_a_recording_that_was_too_large() -> None:
    assert is_replay_cut_off(REPLAY, 413)
    assert not is_replay_cut_off(REPLAY, 503)
    assert not is_replay_cut_off(EVENTS, 413)


@pytest.mark.parametrize(
    ("status", "fields", "rough"),
    [
        (200, HTML, True),
        (301, (), True),
        (413, (), True),
        (200, JSON, False),
        (304, (), False),
        (503, JSON, False),
    ],
)
def test_the_rough_look_misses_none(status: int, fields: Fields, rough: bool) -> None:
    assert betrays(status, fields, sdk=True) is rough
    assert betrays(status, fields, sdk=False) is (status == 301)


def asked(
    scheme: bytes = b"http", *, told: bool = False, claimed: bool = False, reachable: bool = False
) -> Asked:
    return Asked(scheme, (b"ph.example", b"web:8000"), b"/e/?a=b", told, claimed, reachable)


@pytest.mark.parametrize(
    ("request_", "location", "loop"),
    [
        (asked(), b"http://ph.example/e/?a=b", Loop.ITSELF),
        (asked(), b"/e/?a=b", Loop.ITSELF),
        (asked(), b"HTTP://PH.example:80/e/?a=b", Loop.ITSELF),
        (asked(b"https"), b"https://ph.example/e/?a=b", Loop.ITSELF),
        (asked(b"https"), b"https://web:8000/e/?a=b", Loop.ITSELF),
        (asked(), b"https://ph.example/e/?a=b", Loop.SCHEME),
        (asked(claimed=True, reachable=True), b"https://ph.example/e/?a=b", Loop.SCHEME),
        (asked(told=True), b"https://ph.example/e/?a=b", None),
        (asked(reachable=True), b"https://ph.example/e/?a=b", None),
        (asked(b"https", told=True), b"http://ph.example/e/?a=b", Loop.SCHEME),
        (asked(), b"/e?a=b", Loop.SLASH),
        (asked(), b"http://ph.example/e?a=b", Loop.SLASH),
        (asked(), b"https://ph.example/e?a=b", None),
        (asked(), b"/e/", None),
        (asked(), b"/login?next=/e/", None),
        (asked(), b"https://other.example/e/?a=b", None),
        (asked(), b"http://[bad/e/?a=b", None),
    ],
)
def test_a_redirect_to_what_was_just_asked_for(request_: Asked, location: bytes, loop: Loop | None) -> None:
    assert redirect_loop(request_, 301, ((b"Location", location),)) is loop


def test_only_redirects_redirect() -> None:
    assert redirect_loop(asked(), 201, ((b"Location", b"/e/?a=b"),)) is None
    assert redirect_loop(asked(), 302, ()) is None


class TestTraffic:
    def window(self, *addresses: str) -> Traffic:
        traffic = Traffic(0.0, requests=1000, suspect=10)
        for address in addresses:
            traffic.sample(address)
        return traffic

    def test_most_requests_from_private_addresses(self) -> None:
        many = ["10.0.0.1", "10.0.0.2"] * FEWEST_SAMPLES
        assert self.window(*many).verdict(1100, 100) == (Symptom.PRIVATE, None)
        assert self.window(*many).verdict(1100, 99) is None

    def test_which_is_said_when_it_is_one(self) -> None:
        assert self.window(*["10.0.0.1"] * FEWEST_SAMPLES).verdict(1100, 110) == (Symptom.PRIVATE, "10.0.0.1")

    def test_most_samples_from_one_public_address(self) -> None:
        samples = ["203.0.113.7"] * 9 * 4 + ["198.51.100.1"] * 4
        assert self.window(*samples).verdict(1100, 10) == (Symptom.SINGLE, "203.0.113.7")
        assert self.window(*samples, "198.51.100.2").verdict(1100, 10) is None

    def test_a_few_betray_nothing(self) -> None:
        assert self.window(*["a"] * (FEWEST_SAMPLES - 1)).verdict(1100, 10) is None
        assert self.window(*["a"] * FEWEST_SAMPLES).verdict(1000 + FEWEST_REQUESTS - 1, 10) is None
        assert self.window().verdict(1100, 10) is None


@pytest.mark.parametrize(
    ("now", "last_well", "last_ill", "silent"),
    [
        (WINDOW, None, WINDOW, True),
        (WINDOW - 1, None, 1.0, False),
        (1000.0, None, None, False),
        (1000.0, None, 1000.0 - WINDOW - 1, False),
        (1000.0, 1000.0 - SILENT, 999.0, True),
        (1000.0, 1001.0 - SILENT, 999.0, False),
        (1000.0, 999.5, 999.0, False),
    ],
)
def test_an_upstream_that_only_fails(
    now: float, last_well: float | None, last_ill: float | None, silent: bool
) -> None:
    assert is_silent(now, 0.0, last_well, last_ill) is silent
