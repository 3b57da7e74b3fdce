"""Which requests a fault hits, and how often."""

from __future__ import annotations

from proxy.standin.faults import Faults, Kind


def test_paths_match_with_and_without_the_slash() -> None:
    faults = Faults()
    faults.add(Kind.STATUS, paths=["/e/"], status=503)
    assert [fault.status for fault in faults.take("/e")] == [503]
    assert faults.take("/e/")
    assert not faults.take("/s/")


def test_a_count_runs_out() -> None:
    faults = Faults()
    faults.add(Kind.DROP, times=2)
    assert [len(faults.take("/e")) for _ in range(3)] == [1, 1, 0]


def test_several_faults_stand_in_order() -> None:
    faults = Faults()
    faults.add(Kind.DELAY, seconds=0.5)
    faults.add(Kind.STATUS, status=502, headers={"Retry-After": "1"}, times=1)
    assert [fault.kind for fault in faults.take("/")] == [Kind.DELAY, Kind.STATUS]
    assert [fault.kind for fault in faults.take("/")] == [Kind.DELAY]


def test_the_own_pages_are_never_hit() -> None:
    faults = Faults()
    faults.add(Kind.STATUS, status=503)
    assert not faults.take("/__standin__/events")


def test_clearing() -> None:
    faults = Faults()
    faults.add(Kind.STATUS, status=503)
    faults.clear()
    assert not faults.take("/e")
