"""Counts of the last ten seconds, and the retries that they allow."""

from __future__ import annotations

import pytest

from proxy.net.window import SECONDS, RetryBudget, Window


class TestWindow:
    def test_counts_events_and_the_marked_ones(self) -> None:
        window = Window()
        window.add(100.0)
        window.add(100.9, marked=1)
        window.add(103.0, events=2)
        assert (window.events, window.marked) == (4, 1)
        assert repr(window) == "<Window 1/4>"

    def test_the_first_moment_may_be_far_from_zero(self) -> None:
        window = Window()
        window.add(1e9)
        assert window.events == 1

    def test_each_second_leaves_ten_seconds_later(self) -> None:
        window = Window()
        for second in range(SECONDS):
            window.add(50.0 + second, marked=second % 2)
        assert (window.events, window.marked) == (10, 5)
        for gone in range(1, SECONDS + 1):
            window.advance(59.0 + gone)
            assert window.events == 10 - gone
        assert window.marked == 0

    def test_a_long_silence_empties_it(self) -> None:
        window = Window()
        window.add(5.0, marked=1)
        window.advance(5.0 + 1000 * SECONDS)
        assert (window.events, window.marked) == (0, 0)

    def test_it_agrees_with_a_list_of_all_that_was_counted(self) -> None:
        window = Window()
        moments = [0.2, 0.9, 3.1, 3.2, 7.7, 9.9, 10.0, 13.0, 14.5, 23.9, 24.0, 31.0]
        for index, now in enumerate(moments):
            window.add(now)
            seen = [moment for moment in moments[: index + 1] if int(now) - int(moment) < SECONDS]
            assert window.events == len(seen)


class TestRetryBudget:
    def test_three_are_always_allowed(self) -> None:
        budget = RetryBudget(0.1)
        assert [budget.take(1.0) for _ in range(4)] == [True, True, True, False]

    def test_a_share_of_the_requests_beyond_that(self) -> None:
        budget = RetryBudget(0.1)
        for _ in range(100):
            budget.request(1.0)
        assert sum(budget.take(1.0) for _ in range(50)) == 10
        assert repr(budget) == "<RetryBudget 10 of 100 requests>"

    def test_it_grows_back(self) -> None:
        budget = RetryBudget(0.0)
        assert [budget.take(5.0) for _ in range(4)] == [True, True, True, False]
        assert not budget.take(14.0)
        assert budget.take(15.0)

    @pytest.mark.parametrize(("requests", "allowed"), [(0, 3), (20, 3), (30, 3), (31, 4), (1000, 100)])
    def test_the_minimum_and_the_share_meet(self, requests: int, allowed: int) -> None:
        budget = RetryBudget(0.1)
        for _ in range(requests):
            budget.request(2.0)
        assert sum(budget.take(2.0) for _ in range(requests + 5)) == allowed
