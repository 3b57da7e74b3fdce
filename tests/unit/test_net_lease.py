"""A lease: what is reported to whom, and that it is released once."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import Failure, Resend, Source
from proxy.net.lease import Lease


class Connection:
    """What a lease uses of a connection."""

    address = "127.0.0.1:80"

    def __init__(self, served: int) -> None:
        self.served = served

    def open_exchange(self) -> str:
        self.served += 1
        return "the exchange"

    def __repr__(self) -> str:
        return "<Connection>"


class Pool:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def record(self, *, ok: bool, probe: bool) -> None:
        self.told.append(("record", ok, probe))

    def abandon_probe(self) -> None:
        self.told.append(("abandon",))

    def take_back(self, connection: Connection, reusable: bool) -> None:
        self.told.append(("take back", reusable))


def lease(pool: Pool, *, served: int = 0, probe: bool = False) -> Lease:
    return Lease(pool, Connection(served), probe=probe)  # type: ignore[arg-type]


def failed(source: Source = Source.UPSTREAM, resend: Resend = Resend.NEVER) -> Failure:
    return Failure(source, "some_kind", 502, "some detail", resend)


def test_what_it_tells() -> None:
    new, reused = lease(Pool()), lease(Pool(), served=3)
    assert (new.reused, reused.reused) == (False, True)
    assert (new.exchange, new.address) == ("the exchange", "127.0.0.1:80")
    assert not new.released
    assert (new.t_queue, new.t_connect, new.retries) == (0.0, 0.0, 0)
    assert repr(new) == "<Lease ACTIVE new <Connection>>"
    assert repr(reused) == "<Lease ACTIVE reused <Connection>>"
    for each in (new, reused):
        each.release(True)
    assert new.released
    assert repr(new) == "<Lease RELEASED new <Connection>>"


class TestRelease:
    @pytest.mark.parametrize("reusable", [True, False])
    def test_gives_the_connection_back(self, reusable: bool) -> None:
        pool = Pool()
        lease(pool).release(reusable)
        assert pool.told == [("take back", reusable)]

    def test_a_second_time_is_an_error_and_does_nothing(self) -> None:
        pool = Pool()
        it = lease(pool)
        it.release(True)
        with pytest.raises(RuntimeError, match=r"RELEASED .* is released a second time"):
            it.release(True)
        assert pool.told == [("take back", True)]

    def test_never_is_said_loudly(self) -> None:
        it = lease(Pool())
        with pytest.warns(ResourceWarning, match=r"Lease ACTIVE .* was never released"):
            del it

    def test_an_unreported_probe_is_abandoned_first(self) -> None:
        pool = Pool()
        lease(pool, probe=True).release(False)
        assert pool.told == [("abandon",), ("take back", False)]


class TestReport:
    @pytest.mark.parametrize(
        ("status", "ok"),
        [
            (200, True),
            (101, True),
            (404, True),
            (429, True),
            (500, True),
            (502, False),
            (503, False),
            (504, False),
        ],
    )
    def test_the_status_decides(self, status: int, ok: bool) -> None:
        pool = Pool()
        it = lease(pool)
        it.report(status, None)
        it.release(True)
        assert pool.told == [("record", ok, False), ("take back", True)]

    @pytest.mark.parametrize("status", [None, 200])
    def test_a_failure_of_the_upstream_outweighs_its_status(self, status: int | None) -> None:
        pool = Pool()
        it = lease(pool)
        it.report(status, failed())
        it.release(False)
        assert pool.told[0] == ("record", False, False)

    @pytest.mark.parametrize("source", [Source.DOWNSTREAM, Source.PROXY])
    def test_a_failure_of_others_says_nothing(self, source: Source) -> None:
        pool = Pool()
        it = lease(pool, probe=True)
        it.report(None, failed(source))
        it.release(False)
        assert pool.told == [("abandon",), ("take back", False)]

    def test_but_the_status_that_came_before_it_does(self) -> None:
        pool = Pool()
        it = lease(pool)
        it.report(200, failed(Source.DOWNSTREAM))
        it.release(False)
        assert pool.told[0] == ("record", True, False)

    def test_nothing_says_nothing(self) -> None:
        pool = Pool()
        it = lease(pool)
        it.report(None, None)
        it.release(True)
        assert pool.told == [("take back", True)]

    def test_a_reused_connection_that_was_closed_says_nothing(self) -> None:
        pool = Pool()
        it = lease(pool, served=1, probe=True)
        it.report(None, failed(resend=Resend.REUSED))
        it.release(False)
        assert pool.told == [("abandon",), ("take back", False)]

    def test_a_new_one_that_was_closed_does(self) -> None:
        pool = Pool()
        it = lease(pool)
        it.report(None, failed(resend=Resend.REUSED))
        it.release(False)
        assert pool.told[0] == ("record", False, False)

    def test_the_first_word_counts(self) -> None:
        pool = Pool()
        it = lease(pool, probe=True)
        it.report(None, failed(Source.DOWNSTREAM))
        it.report(200, None)
        it.report(200, failed())
        it.report(503, None)
        it.release(False)
        assert pool.told == [("record", True, True), ("take back", False)]
