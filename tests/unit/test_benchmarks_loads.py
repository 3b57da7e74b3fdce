"""The benchmark's requests: different from each other, the same at every run, and taken by our gate."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from benchmarks.loads import LOADS, Load, requests
from benchmarks.loads.steady import arrivals, quantile
from benchmarks.origins import reader
from benchmarks.origins.answers import ANSWERS, Answer, answer_to
from proxy.message import FramingKind
from proxy.wire.heads import read_request, read_response
from proxy.wire.strict import HeadLimits

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.message import RequestHead

SOME = 120


def named(load: Load) -> str:
    return load.name


def parsed(request: bytes) -> tuple[RequestHead, bytes]:
    end = request.index(b"\r\n\r\n") + 4
    return read_request(request[:end], HeadLimits()), request[end:]


@pytest.mark.parametrize("load", LOADS, ids=named)
def test_requests_are_well_formed_and_as_long_as_they_say(load: Load) -> None:
    for request in requests.distinct(load.make, min(SOME, load.distinct)):
        head, body = parsed(request)
        assert head.framing.kind is (FramingKind.LENGTH if body else FramingKind.NONE)
        assert head.framing.length == len(body)


@pytest.mark.parametrize("load", LOADS, ids=named)
def test_requests_are_all_different_and_the_same_again(load: Load) -> None:
    count = min(SOME, load.distinct)
    first = requests.distinct(load.make, count)
    assert len(set(first)) == count
    assert requests.distinct(load.make, count) == first


def test_enough_requests_where_they_are_small() -> None:
    assert all(load.distinct >= 997 for load in LOADS if load.name not in ("upload", "tcp"))


def test_events_vary_in_length_within_bounds() -> None:
    lengths = [len(parsed(request)[1]) for request in requests.distinct(requests.ingest, 1000)]
    assert min(lengths) >= 150
    assert max(lengths) <= requests.LARGEST_BODY + 100
    assert len(set(lengths)) > 500


def test_closing_requests_say_so_once() -> None:
    for request in requests.distinct(requests.ingest_closing, SOME):
        head, _ = parsed(request)
        assert head.close


def test_requests_behind_a_balancer_bring_a_chain_and_a_scheme() -> None:
    chains = set()
    for request in requests.distinct(requests.ingest_behind_balancer, SOME):
        names = {name.lower(): value for name, value in parsed(request)[0].fields}
        assert names[b"x-forwarded-proto"] == b"https"
        chains.add(names[b"x-forwarded-for"])
    assert len(chains) == SOME
    assert {chain.count(b",") for chain in chains} >= {0, 1, 2}


def test_a_file_of_requests_is_read_as_it_was_written(tmp_path: Path) -> None:
    sent = requests.distinct(requests.mixed, 20)
    requests.write(sent, tmp_path / "file")
    assert requests.read(tmp_path / "file") == sent


def test_each_load_asks_for_an_answer_of_its_own() -> None:
    asked = {load.name: answer_to(load.make(Random(1)).split(b" ", 2)[1].decode()).file for load in LOADS}
    assert asked["flags"] == "flags"
    assert asked["app"] == "app"
    assert asked["script"] == "script"
    assert asked["upload"] == "replay"
    assert asked["download"] == "download"


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.file)
def test_the_reader_writes_whole_answers(answer: Answer) -> None:
    raw = reader.answer_to(f"POST {answer.prefix} HTTP/1.1\r\n\r\n".encode())
    end = raw.index(b"\r\n\r\n") + 4
    head = read_response(raw[:end], b"POST", HeadLimits())
    assert (head.status, head.framing.length, raw[end:]) == (200, len(answer.body), answer.body)


def test_arrivals_have_the_rate_and_are_the_same_for_all() -> None:
    times = arrivals(1000.0, 10.0)
    assert times == sorted(times) == arrivals(1000.0, 10.0)
    assert 9_500 < len(times) < 10_500
    assert all(0 <= time < 10 for time in times)


def test_quantiles() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile(values, 1.0)) == (51.0, 100.0, 100.0)
    assert quantile([], 0.5) == 0.0
