"""The chooser's decisions: which connection, who waits, what is closed."""

from __future__ import annotations

from typing import Any

from proxy.clock import NEVER
from proxy.net.chooser import NOTHING, Choice, Chooser


class Conn:
    """A connection as the chooser sees it."""

    def __init__(self, name: str = "", *, capacity: int = 1, retire_at: float = NEVER) -> None:
        self.name = name
        self.capacity = capacity
        self.in_flight = 0
        self.idle_since = 0.0
        self.retire_at = retire_at

    def __repr__(self) -> str:
        return self.name


class Someone:
    """A place in line."""

    def __init__(self, *, due: float = NEVER, fresh: bool = False) -> None:
        self.due = due
        self.fresh = fresh
        self.gone = False


def chooser(**bounds: Any) -> Chooser[Conn, Someone]:
    return Chooser(**{"connections": 2, "idle": 2, "line": 2, "idle_timeout": 4.0} | bounds)


def connected(it: Chooser[Conn, Someone], conn: Conn, *, fresh: bool = False) -> Conn:
    assert it.choose(0.0, fresh=fresh).dial
    it.dialled(conn)
    return conn


def used(it: Chooser[Conn, Someone], *conns: Conn) -> None:
    """Connect all, then release them in this order."""
    for conn in conns:
        connected(it, conn)
    for conn in conns:
        it.release(conn, True, 0.0)


class TestTaking:
    def test_the_first_request_dials(self) -> None:
        it = chooser()
        assert it.choose(0.0, fresh=False) == Choice(dial=True, close=[])
        assert it.dialling == 1

    def test_a_released_connection_is_taken_again(self) -> None:
        it = chooser()
        conn = connected(it, Conn())
        assert (it.in_use, it.idle, conn.in_flight) == (1, 0, 1)
        assert it.release(conn, True, 1.0) == NOTHING
        assert (it.in_use, it.idle, conn.in_flight) == (0, 1, 0)
        assert it.choose(2.0, fresh=False).connection is conn
        assert (it.in_use, it.idle, conn.in_flight) == (1, 0, 1)
        assert repr(it) == "<Chooser idle=0 in_use=1 dialling=0 waiting=0>"

    def test_the_last_one_released_is_taken_first(self) -> None:
        it = chooser()
        first, second = Conn("first"), Conn("second")
        used(it, first, second)
        assert it.take(0.0).connection is second
        assert it.take(0.0).connection is first
        assert it.take(0.0).connection is None

    def test_take_never_dials(self) -> None:
        it = chooser()
        assert it.take(0.0) == Choice(close=[])
        assert it.dialling == 0

    def test_an_idle_one_that_is_too_old_is_closed_instead(self) -> None:
        it = chooser()
        first, second = Conn("first"), Conn("second", retire_at=3.0)
        used(it, first, second)
        choice = it.choose(3.0, fresh=False)
        assert (choice.connection, choice.close) == (first, [second])

    def test_idle_for_too_long_all_are_closed_and_one_is_dialled(self) -> None:
        it = chooser()
        first, second = Conn("first"), Conn("second")
        used(it, first, second)
        assert it.choose(4.0, fresh=False) == Choice(dial=True, close=[second, first])

    def test_a_fresh_one_leaves_the_idle_ones_alone(self) -> None:
        it = chooser()
        used(it, Conn())
        assert it.choose(0.0, fresh=True) == Choice(dial=True, close=())
        assert it.idle == 1

    def test_a_fresh_one_takes_the_place_of_the_longest_idle(self) -> None:
        it = chooser()
        first, second = Conn("first"), Conn("second")
        used(it, first, second)
        assert it.choose(0.0, fresh=True) == Choice(dial=True, close=[first])

    def test_full_means_waiting(self) -> None:
        it = chooser()
        connected(it, Conn())
        assert it.choose(0.0, fresh=False).dial
        assert it.choose(0.0, fresh=False) == Choice(close=[])
        assert it.choose(0.0, fresh=True) == Choice(close=[])
        it.join(Someone())
        assert it.choose(0.0, fresh=False) == Choice()


class TestReleasing:
    def test_not_reusable(self) -> None:
        it = chooser()
        conn = connected(it, Conn())
        assert it.release(conn, False, 0.0).close == [conn]
        assert (it.in_use, it.idle) == (0, 0)

    def test_too_old(self) -> None:
        it = chooser()
        conn = connected(it, Conn(retire_at=9.0))
        assert it.release(conn, True, 9.0).close == [conn]

    def test_more_idle_than_kept_closes_the_longest_idle(self) -> None:
        it = chooser(idle=1)
        first, second = connected(it, Conn("first")), connected(it, Conn("second"))
        it.release(first, True, 0.0)
        assert it.release(second, True, 0.0).close == [first]
        assert it.take(0.0).connection is second

    def test_none_kept(self) -> None:
        it = chooser(idle=0)
        conn = connected(it, Conn())
        assert it.release(conn, True, 0.0).close == [conn]

    def test_dropped_while_idle(self) -> None:
        it = chooser()
        conn = Conn()
        used(it, conn)
        assert it.drop(conn).close == [conn]
        assert not it.drop(conn).close
        assert it.idle == 0

    def test_dropped_while_in_use_it_closes_at_its_release(self) -> None:
        it = chooser()
        conn = connected(it, Conn())
        assert not it.drop(conn).close
        assert it.release(conn, True, 0.0).close == [conn]

    def test_a_failed_dial_frees_its_place(self) -> None:
        it = chooser(connections=1)
        it.choose(0.0, fresh=False)
        assert it.undialled() == NOTHING
        assert it.choose(0.0, fresh=False).dial

    def test_a_dead_one_is_replaced_by_a_dial(self) -> None:
        it = chooser(connections=1)
        conn = connected(it, Conn())
        it.replace(conn)
        assert (it.in_use, it.dialling) == (0, 1)
        assert it.choose(0.0, fresh=False) == Choice(close=[])


class TestLine:
    def full(self, **bounds: Any) -> tuple[Chooser[Conn, Someone], Conn, Conn]:
        it = chooser(**bounds)
        return it, connected(it, Conn("first")), connected(it, Conn("second"))

    def test_first_come_first_served(self) -> None:
        it, first, second = self.full()
        one, two = Someone(), Someone()
        it.join(one)
        it.join(two)
        assert (it.waiting, it.line_full) == (2, True)
        assert it.release(second, True, 0.0).grants == [(one, second)]
        assert it.release(first, True, 0.0).grants == [(two, first)]
        assert (it.waiting, it.in_use) == (0, 2)

    def test_nobody_overtakes(self) -> None:
        it, first, _ = self.full()
        it.join(Someone())
        it.empty_line()
        it.release(first, True, 0.0)
        it.join(Someone())
        assert it.choose(0.0, fresh=False) == Choice()
        assert it.take(0.0).connection is None

    def test_a_closed_connection_gives_the_right_to_dial(self) -> None:
        it, first, _ = self.full()
        one = Someone()
        it.join(one)
        outcome = it.release(first, False, 0.0)
        assert (outcome.grants, outcome.close, it.dialling) == ([(one, None)], [first], 1)

    def test_so_does_a_failed_dial(self) -> None:
        it = chooser(connections=1)
        it.choose(0.0, fresh=False)
        one = Someone()
        it.join(one)
        assert it.undialled().grants == [(one, None)]
        assert it.dialling == 1

    def test_who_wants_a_fresh_one_gets_the_place_of_the_reused_one(self) -> None:
        it, first, _ = self.full()
        one = Someone(fresh=True)
        it.join(one)
        outcome = it.release(first, True, 0.0)
        assert (outcome.grants, outcome.close) == ([(one, None)], [first])

    def test_who_left_gets_nothing(self) -> None:
        it, first, _ = self.full()
        one, two = Someone(), Someone()
        it.join(one)
        it.join(two)
        assert it.leave(one)
        assert not it.leave(one)
        assert it.release(first, True, 0.0).grants == [(two, first)]

    def test_who_is_gone_without_leaving_is_passed_over(self) -> None:
        it, first, _ = self.full()
        one, two = Someone(), Someone()
        it.join(one)
        it.join(two)
        one.gone = True
        assert it.release(first, True, 0.0).grants == [(two, first)]
        assert it.waiting == 0

    def test_who_is_late_is_let_go(self) -> None:
        it, _, _ = self.full(line=9)
        one, two, three = Someone(due=3.0), Someone(due=9.0), Someone(due=3.0)
        for someone in (one, two, three):
            it.join(someone)
        three.gone = True
        assert it.expire(3.0).late == [one]
        assert it.waiting == 1
        assert it.expire(9.0).late == [two]

    def test_emptied(self) -> None:
        it, _, _ = self.full(line=9)
        one, two = Someone(), Someone()
        it.join(one)
        it.join(two)
        two.gone = True
        assert it.empty_line() == [one]
        assert it.waiting == 0


class TestTime:
    def test_idle_and_old_ones_expire(self) -> None:
        it = chooser()
        first, second = Conn("first"), Conn("second", retire_at=2.0)
        used(it, first, second)
        assert not it.expire(1.9).close
        assert it.expire(2.0).close == [second]
        assert it.expire(4.0).close == [first]

    def test_those_in_use_do_not(self) -> None:
        it = chooser()
        connected(it, Conn(retire_at=1.0))
        assert not it.expire(100.0).close

    def test_the_next_moment(self) -> None:
        it = chooser(connections=2)
        assert it.next_due() == NEVER
        first, second = Conn("first"), Conn("second", retire_at=3.0)
        used(it, first, second)
        assert it.next_due() == 3.0
        it.take(0.0)
        assert it.next_due() == 4.0
        it.take(0.0)
        assert it.next_due() == NEVER
        it.join(Someone(due=7.0))
        assert it.next_due() == 7.0


class TestClosing:
    def test_what_is_idle_goes_at_once_the_rest_at_its_release(self) -> None:
        it = chooser()
        busy = connected(it, Conn("busy"))
        idle = connected(it, Conn("idle"))
        it.release(idle, True, 0.0)
        assert it.close() == [idle]
        assert it.release(busy, True, 0.0).close == [busy]
        assert repr(it) == "<Chooser idle=0 in_use=0 dialling=0 waiting=0 CLOSED>"


class TestSeveralExchangesOnOneConnection:
    def test_it_is_available_until_it_carries_all_it_can(self) -> None:
        it = chooser(connections=1)
        conn = connected(it, Conn(capacity=3))
        assert it.take(0.0).connection is conn
        assert it.take(0.0).connection is conn
        assert it.take(0.0).connection is None
        assert (conn.in_flight, it.in_use, it.idle) == (3, 1, 0)
        it.release(conn, True, 0.0)
        assert (conn.in_flight, it.in_use, it.idle) == (2, 1, 0)
        assert it.take(0.0).connection is conn

    def test_a_new_one_serves_the_line(self) -> None:
        it = chooser(connections=1)
        it.choose(0.0, fresh=False)
        one, two = Someone(), Someone()
        it.join(one)
        it.join(two)
        conn = Conn(capacity=2)
        assert it.dialled(conn).grants == [(one, conn)]
        assert it.waiting == 1

    def test_who_wants_a_fresh_one_takes_one_that_is_proven_alive(self) -> None:
        it = chooser(connections=1)
        it.choose(0.0, fresh=False)
        one = Someone(fresh=True)
        it.join(one)
        conn = Conn(capacity=2)
        assert it.dialled(conn).grants == [(one, conn)]
        it.release(conn, True, 0.0)
        assert it.choose(0.0, fresh=True).connection is conn

    def test_not_reusable_it_takes_nothing_more_and_closes_with_its_last(self) -> None:
        it = chooser(connections=1)
        conn = connected(it, Conn(capacity=3))
        it.take(0.0)
        assert not it.release(conn, False, 0.0).close
        assert it.take(0.0).connection is None
        assert it.release(conn, True, 0.0).close == [conn]

    def test_the_idle_time_runs_only_when_it_carries_nothing(self) -> None:
        it = chooser(idle=0)
        conn = connected(it, Conn(capacity=2, retire_at=50.0))
        assert it.next_due() == 50.0
        assert not it.expire(49.0).close
        it.take(0.0)
        assert not it.release(conn, True, 0.0).close
        assert not it.expire(50.0).close
        assert it.release(conn, True, 50.0).close == [conn]


class TestTheQuickWay:
    def test_it_takes_the_last_one_released_as_take_does(self) -> None:
        it = chooser()
        first, second = Conn("first"), Conn("second")
        used(it, first, second)
        assert it.take_newest(0.0) is second
        assert (second.in_flight, it.idle, it.in_use) == (1, 1, 1)
        assert it.take_newest(0.0) is first
        assert it.take_newest(0.0) is None
        assert (it.idle, it.in_use, it.dialling) == (0, 2, 0)

    def test_one_that_was_idle_too_long_is_left_to_take(self) -> None:
        it = chooser()
        conn = Conn()
        used(it, conn)
        assert it.take_newest(4.0) is None
        assert (conn.in_flight, it.idle) == (0, 1)
        assert it.take(4.0) == Choice(close=[conn])
        assert it.take_newest(4.0) is None

    def test_one_that_is_too_old_is_left_to_take(self) -> None:
        it = chooser()
        conn = Conn(retire_at=3.0)
        used(it, conn)
        assert it.take_newest(3.0) is None
        assert it.take_newest(2.9) is conn

    def test_what_is_left_keeps_its_place(self) -> None:
        it = chooser()
        first, second = Conn("first"), Conn("second", retire_at=3.0)
        used(it, first, second)
        assert it.take_newest(3.0) is None
        choice = it.take(3.0)
        assert (choice.connection, choice.close) == (first, [second])

    def test_nobody_is_overtaken(self) -> None:
        it = chooser(connections=1)
        conn = connected(it, Conn())
        waiter = Someone()
        it.join(waiter)
        assert not it.give_back(conn, 1.0)
        assert (conn.in_flight, conn.idle_since) == (1, 0.0)
        assert it.release(conn, True, 1.0).grants == [(waiter, conn)]
        it.release(conn, True, 1.0)
        it.join(Someone())
        assert it.take_newest(1.0) is None

    def test_one_that_carries_others_is_left_to_take(self) -> None:
        it = chooser()
        conn = connected(it, Conn(capacity=2))
        assert it.take_newest(0.0) is None
        it.release(conn, True, 0.0)
        assert it.take_newest(0.0) is None
        assert (conn.in_flight, it.idle) == (0, 1)
        assert it.take(0.0).connection is conn
        assert not it.give_back(conn, 0.0)
        assert conn.in_flight == 1

    def test_given_back_it_is_the_newest(self) -> None:
        it = chooser()
        first, second = connected(it, Conn("first")), connected(it, Conn("second"))
        assert it.give_back(second, 1.0)
        assert it.give_back(first, 2.0)
        assert (first.in_flight, first.idle_since, it.idle, it.in_use) == (0, 2.0, 2, 0)
        assert it.take_newest(2.0) is first
        assert it.expire(5.0).close == [second]

    def test_what_must_close_is_left_to_release(self) -> None:
        it = chooser(idle=1)
        old, first, second = Conn("old", retire_at=3.0), Conn("first"), Conn("second")
        connected(it, old)
        assert not it.give_back(old, 3.0)
        assert it.release(old, True, 3.0).close == [old]
        connected(it, first)
        connected(it, second)
        assert it.give_back(first, 3.0)
        assert not it.give_back(second, 3.0)
        assert it.release(second, True, 3.0).close == [first]
        assert it.take_newest(3.0) is second
        it.close()
        assert not it.give_back(second, 3.0)
        assert it.release(second, True, 3.0).close == [second]
