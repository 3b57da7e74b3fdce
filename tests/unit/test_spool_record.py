"""The nouns of the spool: what their texts say, and the order of delivery."""

from __future__ import annotations

import pytest

from proxy.message import EndpointClass
from proxy.spool.record import (
    Figures,
    RecordId,
    SpoolFailed,
    SpoolFull,
    UpstreamFigures,
    queue_name,
    queues_of,
    total,
    upstream_of,
)


def test_ids_sort_by_arrival_then_file_then_row() -> None:
    early, late = RecordId(1.0, "b", 9), RecordId(2.0, "a", 1)
    assert sorted([late, RecordId(1.0, "b", 10), early]) == [early, RecordId(1.0, "b", 10), late]
    assert str(early) == "b:9"


def test_exceptions_say_why() -> None:
    assert (SpoolFull("age").reason, str(SpoolFull("age"))) == ("age", "spool full: age")
    assert str(SpoolFailed("disk I/O error")) == "spool failed: disk I/O error"


@pytest.mark.parametrize(
    ("endpoint", "queue"), [(EndpointClass.INGEST_V0, "default"), (EndpointClass.REPLAY, "default/replay")]
)
def test_each_upstream_has_two_queues(endpoint: EndpointClass, queue: str) -> None:
    assert queue_name("default", endpoint) == queue
    assert queue in queues_of("default")
    assert upstream_of(queue) == "default"


def test_figures_add_up() -> None:
    figures = Figures({"default": UpstreamFigures(2, 100, 5.0), "replay": UpstreamFigures(1, 50, 6.0)})
    assert (figures.depth, figures.bytes) == (3, 150)
    assert (Figures().depth, Figures().bytes) == (0, 0)


def test_what_several_files_hold_for_an_upstream_adds_up() -> None:
    files = [
        {"default": UpstreamFigures(2, 300, 7.0), "cloud": UpstreamFigures(1, 10, 9.0)},
        {"default": UpstreamFigures(1, 50, 5.0), "empty": UpstreamFigures()},
    ]
    assert total(files) == {
        "default": UpstreamFigures(3, 350, 5.0),
        "cloud": UpstreamFigures(1, 10, 9.0),
        "empty": UpstreamFigures(),
    }
    assert total([]) == {}
