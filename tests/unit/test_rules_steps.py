"""Long work that is cut up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.rules.steps import finish

if TYPE_CHECKING:
    from proxy.rules.steps import Steps


def work(log: list[object]) -> Steps[str]:
    log.append((yield None))
    log.append((yield lambda: 7))
    return "done"


def test_all_at_once() -> None:
    log: list[object] = []
    assert finish(work(log)) == "done"
    assert log == [None, 7]


def test_what_goes_wrong_is_raised() -> None:
    def broken() -> Steps[None]:
        yield None
        raise KeyError

    with pytest.raises(KeyError):
        finish(broken())
