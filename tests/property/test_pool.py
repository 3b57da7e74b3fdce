"""The pool's decisions under any order of events: bounds hold, nobody is lost, the line is fair."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from proxy.clock import NEVER
from proxy.config.schema import HealthConfig
from proxy.net.breaker import Admission, Breaker, BreakerState
from proxy.net.chooser import Chooser, Outcome

IDLE_TIMEOUT = 4.0


@dataclass(eq=False)
class Conn:
    capacity: int
    retire_at: float
    in_flight: int = 0
    idle_since: float = 0.0
    closed: bool = False


@dataclass(eq=False)
class Someone:
    due: float
    fresh: bool
    gone: bool = field(default=False)


class ChooserMachine(RuleBasedStateMachine):
    """Plays the pool: does what the chooser decides, and keeps its own books."""

    @initialize(
        connections=st.integers(1, 4),
        idle=st.integers(0, 4),
        line=st.integers(0, 4),
        capacity=st.sampled_from([1, 1, 1, 3]),
    )
    def begin(self, connections: int, idle: int, line: int, capacity: int) -> None:
        self.limit, self.idle_limit, self.line_limit, self.capacity = connections, idle, line, capacity
        self.chooser: Chooser[Conn, Someone] = Chooser(
            connections=connections, idle=idle, line=line, idle_timeout=IDLE_TIMEOUT
        )
        self.now = 0.0
        self.conns: list[Conn] = []
        self.leases: list[Conn] = []
        self.dials = 0
        self.line: list[Someone] = []

    def obey(self, outcome: Outcome[Conn, Someone]) -> None:
        for conn in outcome.close:
            self.close(conn)
        waiting = [someone for someone in self.line if not someone.gone]
        assert [someone for someone, _ in outcome.grants] == waiting[: len(outcome.grants)]
        for someone, conn in outcome.grants:
            self.line.remove(someone)
            self.granted(conn)
        for someone in outcome.late:
            assert someone.due <= self.now
            self.line.remove(someone)

    def granted(self, conn: Conn | None) -> None:
        if conn is None:
            self.dials += 1
        else:
            assert not conn.closed
            self.leases.append(conn)

    def close(self, conn: Conn) -> None:
        assert not conn.closed
        assert not conn.in_flight
        assert conn not in self.leases
        conn.closed = True
        self.conns.remove(conn)

    @rule(fresh=st.booleans(), patience=st.floats(0, 20))
    def request(self, fresh: bool, patience: float) -> None:
        choice = self.chooser.choose(self.now, fresh=fresh)
        for conn in choice.close:
            self.close(conn)
        if choice.connection is not None:
            assert not fresh or choice.connection.in_flight > 1
            assert self.now < choice.connection.retire_at
            self.granted(choice.connection)
        elif choice.dial:
            self.granted(None)
        elif not self.chooser.line_full:
            someone = Someone(self.now + patience, fresh)
            self.chooser.join(someone)
            self.line.append(someone)

    @precondition(lambda self: self.dials)
    @rule(age=st.floats(0.1, 30))
    def connect(self, age: float) -> None:
        conn = Conn(self.capacity, self.now + age)
        self.dials -= 1
        self.conns.append(conn)
        self.leases.append(conn)
        self.obey(self.chooser.dialled(conn))

    @precondition(lambda self: self.dials)
    @rule()
    def fail_to_connect(self) -> None:
        self.dials -= 1
        self.obey(self.chooser.undialled())

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), reusable=st.booleans())
    def release(self, data: st.DataObject, reusable: bool) -> None:
        conn = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        self.obey(self.chooser.release(conn, reusable, self.now))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def turns_out_dead(self, data: st.DataObject) -> None:
        conn = data.draw(st.sampled_from(self.leases))
        if conn.in_flight == 1:
            self.leases.remove(conn)
            self.conns.remove(conn)
            self.chooser.replace(conn)
            self.dials += 1

    @precondition(lambda self: self.conns)
    @rule(data=st.data())
    def is_closed_by_the_upstream(self, data: st.DataObject) -> None:
        self.obey(self.chooser.drop(data.draw(st.sampled_from(self.conns))))

    @precondition(lambda self: any(not someone.gone for someone in self.line))
    @rule(data=st.data(), politely=st.booleans())
    def give_up_waiting(self, data: st.DataObject, politely: bool) -> None:
        someone = data.draw(st.sampled_from([someone for someone in self.line if not someone.gone]))
        if politely:
            assert self.chooser.leave(someone)
            self.line.remove(someone)
        else:
            someone.gone = True

    @rule(seconds=st.floats(0, 10))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.obey(self.chooser.expire(self.now))
        self.line = [someone for someone in self.line if someone.due > self.now]
        assert self.chooser.next_due() > self.now

    @invariant()
    def the_bounds_hold(self) -> None:
        assert len(self.conns) + self.dials <= self.limit
        assert self.chooser.idle <= self.idle_limit
        assert self.chooser.waiting <= self.line_limit

    @invariant()
    def the_books_agree(self) -> None:
        assert sum(conn.in_flight for conn in self.conns) == len(self.leases)
        assert all(conn.in_flight <= conn.capacity for conn in self.conns)
        assert self.chooser.dialling == self.dials
        assert self.chooser.in_use == len(set(self.leases))
        assert self.chooser.idle + self.chooser.in_use == len(self.conns)

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        if any(not someone.gone for someone in self.line):
            assert len(self.conns) + self.dials == self.limit
            assert all(conn.in_flight == conn.capacity or conn.retire_at == -NEVER for conn in self.conns)

    def teardown(self) -> None:
        """Let everything end: what was open is closed, and who still waits gets a turn."""
        while self.dials or self.leases:
            while self.dials:
                self.fail_to_connect()
            while self.leases:
                self.obey(self.chooser.release(self.leases.pop(), True, self.now))
        assert all(someone.gone for someone in self.line)
        for conn in self.chooser.close():
            self.close(conn)
        assert not self.conns


class BreakerMachine(RuleBasedStateMachine):
    """Requests that are admitted end in any order, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(HealthConfig(), random.Random(7))
        self.now = 0.0
        self.running = 0
        self.probing = False
        self.probing_since = 0.0
        self.in_a_row = 0

    @rule()
    def request(self) -> None:
        admission = self.breaker.admit(self.now)
        if admission is Admission.PROBE:
            assert not self.probing or self.now - self.probing_since >= 60.0
            self.probing, self.probing_since = True, self.now
        elif admission is Admission.ALLOWED:
            self.running += 1
        else:
            assert 0 < self.breaker.retry_after(self.now) <= 66

    @precondition(lambda self: self.running)
    @rule(ok=st.booleans())
    def end(self, ok: bool) -> None:
        was_closed = self.breaker.state is BreakerState.CLOSED
        self.running -= 1
        self.breaker.record(ok, self.now)
        self.in_a_row = 0 if ok or not was_closed else self.in_a_row + 1
        if was_closed:
            assert self.in_a_row < 5 or self.breaker.state is BreakerState.OPEN

    @precondition(lambda self: self.probing)
    @rule(outcome=st.sampled_from([True, False, None]))
    def end_probe(self, outcome: bool | None) -> None:
        self.probing = False
        self.in_a_row = 0
        if outcome is None:
            self.breaker.abandon_probe()
            assert self.breaker.admit(self.now) is Admission.PROBE
            self.probing, self.probing_since = True, self.now
        else:
            self.breaker.record(outcome, self.now, probe=True)
            assert (self.breaker.state is BreakerState.CLOSED) is outcome

    @rule()
    def knock(self) -> None:
        self.breaker.is_back(self.now)
        assert self.breaker.state is not BreakerState.OPEN or self.breaker.retry_after(self.now) == 0

    @rule(seconds=st.floats(0, 90))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def half_open_means_one_probe(self) -> None:
        assert (self.breaker.state is BreakerState.HALF_OPEN) is self.probing


TestChooser = ChooserMachine.TestCase
TestChooser.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
