"""Which requests get a line."""

from __future__ import annotations

import pytest

from proxy.config.schema import LogConfig
from proxy.message import EndpointClass
from proxy.observe.sampling import Sampling

IDS = [f"0b0d1c1e-3a51-4c3e-9d6e-{number:012x}" for number in range(2000)]


def test_everything_unless_said() -> None:
    sampling = Sampling(LogConfig())
    assert sampling.everything
    assert all(sampling.wants("flags", 200, each, 0.1) for each in IDS)


def test_a_share_of_the_successes_and_the_same_each_time() -> None:
    sampling = Sampling(LogConfig(sample=10.0))
    wanted = [each for each in IDS if sampling.wants("flags", 200, each, 0.1)]
    assert 140 < len(wanted) < 260
    assert wanted == [each for each in IDS if sampling.wants("ingest_v0", 304, each, 0.2)]
    assert not any(Sampling(LogConfig(sample=0.0)).wants("flags", 200, each, 0.1) for each in IDS)


def test_classes_that_are_quiet() -> None:
    sampling = Sampling(LogConfig(quiet=(EndpointClass.SDK_READ,)))
    assert not sampling.everything
    assert not sampling.wants("sdk_read", 200, IDS[0], 0.1)
    assert sampling.wants("flags", 200, IDS[0], 0.1)


@pytest.mark.parametrize(
    ("status", "seconds", "error"),
    [(404, 0.1, ""), (503, 0.1, ""), (0, 0.1, ""), (200, 0.1, "truncated: x"), (200, 10.0, "")],
)
def test_what_is_interesting_always(status: int, seconds: float, error: str) -> None:
    sampling = Sampling(LogConfig(sample=0.0, quiet=(EndpointClass.FLAGS,)))
    assert sampling.wants("flags", status, IDS[0], seconds, error)


def test_slowness_can_be_left_alone() -> None:
    assert not Sampling(LogConfig(sample=0.0, slow=0.0)).wants("flags", 200, IDS[0], 3600.0)


def test_where_the_log_is_off_no_line_is_made() -> None:
    sampling = Sampling(LogConfig(access="off"))
    assert not sampling.everything
    assert not any(sampling.wants("flags", status, IDS[0], 99.0, "truncated: x") for status in (200, 503))
