"""The breaker's states, called with the time as a number."""

from __future__ import annotations

import dataclasses
import random

import pytest

from proxy.config.schema import HealthConfig
from proxy.net.breaker import JITTER, Admission, Breaker, BreakerState

ALLOWED, PROBE, REFUSED = Admission.ALLOWED, Admission.PROBE, Admission.REFUSED


class Steady(random.Random):
    """No jitter."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def breaker(**config: object) -> Breaker:
    return Breaker(dataclasses.replace(HealthConfig(), **config), Steady())  # type: ignore[arg-type]


def opened(now: float = 0.0, **config: object) -> Breaker:
    made = breaker(**config)
    for _ in range(5):
        made.record(False, now)
    assert made.state is BreakerState.OPEN
    return made


class TestClosed:
    def test_lets_everything_pass(self) -> None:
        it = breaker()
        assert it.admit(0.0) is ALLOWED
        assert repr(it) == "<Breaker CLOSED in_a_row=0 <Window 0/0>>"

    def test_opens_after_five_failures_in_a_row(self) -> None:
        it = breaker()
        for _ in range(4):
            it.record(False, 1.0)
        assert it.admit(1.0) is ALLOWED
        it.record(False, 1.0)
        assert it.admit(1.0) is REFUSED

    def test_a_success_between_starts_the_row_again(self) -> None:
        it = breaker(failure_share=1.0)
        for _ in range(3):
            for ok in (False, False, False, False, True):
                it.record(ok, 1.0)
        assert it.state is BreakerState.CLOSED

    def test_opens_at_half_of_at_least_twenty(self) -> None:
        it = breaker()
        for number in range(19):
            it.record(number % 2 == 1, 1.0)
        assert it.state is BreakerState.CLOSED  # 10 of 19 failed, but 19 are too few
        it.record(True, 1.0)
        assert it.state is BreakerState.CLOSED  # a success never opens it
        it.record(False, 1.0)
        assert it.state is BreakerState.OPEN  # 11 of 21

    def test_below_the_share_it_stays_closed(self) -> None:
        it = breaker()
        for number in range(300):
            it.record(number % 3 != 0, 1.0)
        assert it.state is BreakerState.CLOSED

    def test_old_failures_do_not_count(self) -> None:
        it = breaker()
        for number in range(15):
            it.record(number % 2 == 1, 1.0)
        for number in range(15):
            it.record(number % 2 == 1, 20.0)
        assert it.state is BreakerState.CLOSED

    def test_switched_off_it_never_opens(self) -> None:
        it = breaker(breaker=False)
        for _ in range(100):
            it.record(False, 1.0)
        assert it.admit(1.0) is ALLOWED


class TestOpen:
    def test_says_when_to_ask_again(self) -> None:
        it = opened(10.0)
        assert it.admit(10.0) is REFUSED
        assert it.retry_after(10.0) == 5.0
        assert it.retry_after(14.0) == 1.0
        assert it.retry_after(99.0) == 0.0

    def test_what_ends_meanwhile_changes_nothing(self) -> None:
        it = opened(10.0)
        it.record(True, 11.0)
        it.record(False, 12.0)
        assert it.admit(14.9) is REFUSED
        assert it.admit(15.0) is PROBE

    def test_the_time_is_spread(self) -> None:
        def until(seed: int) -> float:
            it = Breaker(HealthConfig(), random.Random(seed))
            for _ in range(5):
                it.record(False, 0.0)
            return it.retry_after(0.0)

        times = [until(seed) for seed in range(50)]
        assert len(set(times)) == 50
        assert all(5.0 * (1 - JITTER) <= time <= 5.0 * (1 + JITTER) for time in times)

    def test_the_next_request_is_the_probe_once_it_is_back(self) -> None:
        it = opened(10.0)
        it.is_back(11.0)
        assert it.retry_after(11.0) == 0.0
        assert [it.admit(11.0) for _ in range(2)] == [PROBE, REFUSED]
        it.is_back(12.0)  # the probe is on its way
        assert it.admit(12.0) is REFUSED
        it.record(False, 13.0, probe=True)
        assert it.retry_after(13.0) == 10.0

    def test_that_it_is_back_is_no_news_where_it_was_never_gone(self) -> None:
        it = breaker()
        it.is_back(1.0)
        assert (it.state, it.admit(1.0)) == (BreakerState.CLOSED, ALLOWED)


class TestHalfOpen:
    def test_exactly_one_probe(self) -> None:
        it = opened()
        assert [it.admit(5.0) for _ in range(3)] == [PROBE, REFUSED, REFUSED]
        assert it.admit(64.9) is REFUSED
        assert it.retry_after(64.9) == 5.0

    def test_a_probe_that_takes_for_ever_is_not_waited_for(self) -> None:
        it = opened()
        assert [it.admit(now) for now in (5.0, 65.0, 65.0, 124.9)] == [PROBE, PROBE, REFUSED, REFUSED]

    def test_a_late_word_of_such_a_probe_counts_like_any_other(self) -> None:
        it = opened()
        it.admit(5.0)
        it.admit(65.0)
        it.record(True, 66.0, probe=True)
        it.record(False, 67.0, probe=True)
        it.abandon_probe()
        assert it.admit(67.0) is ALLOWED

    def test_a_good_probe_closes_and_forgets(self) -> None:
        it = opened()
        it.admit(5.0)
        it.record(True, 6.0, probe=True)
        assert it.admit(6.0) is ALLOWED
        for _ in range(4):
            it.record(False, 6.0)
        assert it.admit(6.0) is ALLOWED

    def test_bad_probes_double_the_time_up_to_the_longest(self) -> None:
        it = opened(0.0)
        now, waits = 0.0, []
        for _ in range(6):
            waits.append(it.retry_after(now))
            now += waits[-1]
            assert it.admit(now) is PROBE
            it.record(False, now, probe=True)
        assert waits == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]

    def test_a_good_probe_starts_the_doubling_again(self) -> None:
        it = opened(0.0)
        it.admit(5.0)
        it.record(False, 5.0, probe=True)
        it.admit(15.0)
        it.record(True, 15.0, probe=True)
        for _ in range(5):
            it.record(False, 16.0)
        assert it.retry_after(16.0) == 5.0

    def test_others_do_not_decide(self) -> None:
        it = opened()
        it.admit(5.0)
        it.record(True, 5.0)
        it.record(False, 5.0)
        assert it.state is BreakerState.HALF_OPEN

    def test_an_abandoned_probe_lets_the_next_one_probe(self) -> None:
        it = opened()
        it.admit(5.0)
        it.abandon_probe()
        assert it.admit(5.0) is PROBE


@pytest.mark.parametrize("failures", range(1, 200, 40))
def test_the_time_stays_finite_however_often_it_opens(failures: int) -> None:
    it = opened(0.0, open_max=1e9)
    for number in range(failures):
        now = 1e10 * (number + 1)
        assert it.admit(now) is PROBE
        it.record(False, now, probe=True)
        assert it.retry_after(now) <= 1e9


class TestManyAtOnce:
    def test_those_that_went_well_start_the_row_again(self) -> None:
        it = breaker(failure_share=1.0)
        for _ in range(3):
            for _ in range(4):
                it.record(False, 1.0)
            it.went_well(1, 1.0)
        assert it.state is BreakerState.CLOSED
        assert repr(it) == "<Breaker CLOSED in_a_row=0 <Window 12/15>>"

    def test_each_of_them_counts_in_the_share(self) -> None:
        alone, together = breaker(), breaker()
        for _ in range(16):
            alone.record(True, 1.0)
        together.went_well(16, 1.0)
        for _ in range(14):
            for it in (alone, together):
                for ok in (False, False, True):
                    it.record(ok, 1.0)
            assert repr(alone) == repr(together)
        assert {alone.state, together.state} == {BreakerState.CLOSED}
        for it in (alone, together):
            it.record(False, 1.0)
            it.record(False, 1.0)
        assert {alone.state, together.state} == {BreakerState.OPEN}

    def test_while_it_is_open_they_belong_to_an_earlier_state(self) -> None:
        it = opened()
        it.went_well(100, 1.0)
        assert it.admit(1.0) is REFUSED
        assert it.admit(5.0) is PROBE
        it.went_well(100, 5.0)
        assert it.state is BreakerState.HALF_OPEN

    def test_without_a_breaker_nothing_is_counted(self) -> None:
        it = breaker(breaker=False)
        it.went_well(100, 1.0)
        assert repr(it) == "<Breaker CLOSED in_a_row=0 <Window 0/0>>"
