from __future__ import annotations

import datetime
import tomllib
from ipaddress import ip_address, ip_network

import pytest

from proxy.config.fronts import MAX_WORDS, FrontConfig, Known, read_ranges, shipped, staleness
from proxy.config.load import config_from


def test_every_shipped_word_has_a_source_and_is_a_front() -> None:
    words = shipped()
    assert set(words) == {"cloudflare", "aws-alb", "aws-nlb", "gcp", "nginx", "private"}
    for word, known in words.items():
        assert known.source
        (front,) = config_from({"upstream": "http://web:1", "behind": word}).config.fronts
        assert front.networks


def test_what_the_words_mean() -> None:
    def front(word: str) -> FrontConfig:
        return config_from({"upstream": "http://web:1", "behind": word}).config.fronts[0]

    def holds(word: str, address: str) -> bool:
        return any(ip_address(address) in network for network in front(word).networks)

    assert front("cloudflare").client_header == "CF-Connecting-IP"
    assert holds("cloudflare", "172.68.1.1")
    assert holds("cloudflare", "2606:4700::1")
    assert front("gcp").own_address
    assert holds("gcp", "130.211.3.255")
    assert holds("gcp", "35.191.0.1")
    assert front("aws-nlb").proxy_protocol
    assert not front("aws-alb").proxy_protocol
    for word in ("aws-alb", "aws-nlb", "private"):
        assert all(holds(word, ip) for ip in ("10.1.2.3", "172.31.0.1", "192.168.1.1", "fd00::1"))
        assert not holds(word, "203.0.113.7")
    assert [ip_network("127.0.0.0/8"), ip_network("::1/128")] == list(front("nginx").networks)


def test_only_networks_that_change_have_a_date() -> None:
    assert {word for word, known in shipped().items() if known.date} == {"cloudflare", "gcp"}


@pytest.mark.parametrize(
    ("days", "stale"), [(-30, False), (0, False), (365, False), (366, True), (4000, True)]
)
def test_networks_older_than_a_year_are_warned_about(days: int, stale: bool) -> None:
    date = datetime.date(2026, 9, 29)
    known = Known({}, date, "https://cdn.example/ips")
    warning = staleness("cdn", known, date + datetime.timedelta(days=days))
    if stale:
        assert warning is not None
        for part in ('behind = "cdn"', "2026-09-29", "https://cdn.example/ips", "trust.ranges_file"):
            assert part in warning
    else:
        assert warning is None


def test_networks_without_a_date_do_not_age() -> None:
    assert staleness("x", Known({}, None, ""), datetime.date(2999, 1, 1)) is None


def test_a_file_has_the_form_of_the_shipped_one() -> None:
    known = read_ranges(
        tomllib.loads(
            '[cdn]\nsource = "x"\ndate = 2026-01-02\nclient_header = "X-C"\nnetworks = ["10.0.0.1"]'
        )
    )
    assert known["cdn"] == Known(
        {"client_header": "X-C", "networks": ["10.0.0.1"]}, datetime.date(2026, 1, 2), "x"
    )


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"cdn": 1}, r"must have tables: \[cdn\]"),
        ({"cdn": {"date": "2026-01-01"}}, "date such as"),
        ({"cdn": {"date": datetime.datetime(2026, 1, 1)}}, "date such as"),  # noqa: DTZ001 - as TOML has it
        ({"cdn": {"source": 1}}, "a text as cdn.source"),
        ({str(number): {} for number in range(MAX_WORDS + 1)}, "more than"),
    ],
)
def test_a_file_of_another_form_is_refused(document: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_ranges(document)
