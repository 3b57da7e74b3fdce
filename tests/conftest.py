"""What holds for every test: the real parts it needs are there, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import uvloop
from hypothesis import settings

from tests.support import parts
from tests.support.tidiness import leaving_nothing_behind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

# The suite tries the same examples in every run, so that a red one is of the change that it tests.
# `make fuzz` tries others.
settings.register_profile("same", derandomize=True)
settings.register_profile("others", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("EXAMPLES", "same"))

_left_out: Counter[str] = Counter()
_refused: Counter[str] = Counter()


def _needs(item: pytest.Item) -> set[str]:
    return {name for marker in item.iter_markers("needs") for name in marker.args}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs(*parts): real programs that the test talks to (support/parts.py)"
    )
    config.addinivalue_line("markers", "both_loops: runs on asyncio's event loop and on uvloop's")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Asynchronous tests run on asyncio's own event loop; those marked ``both_loops`` also on uvloop's."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.get_closest_marker("both_loops") is not None:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run here and say so; what could be installed where everything is required
    runs and fails."""
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        refused = [name for name in _needs(item) if parts.refusal_of(name) is not None]
        lacking = [name for name in _needs(item) if parts.path_of(name) is None and name not in refused]
        if parts.everything_required():
            lacking = []
        _refused.update(refused)
        _left_out.update(lacking)
        (dropped if refused or lacking else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=dropped)


def pytest_runtest_setup(item: pytest.Item) -> None:
    lacking = sorted(name for name in _needs(item) if parts.path_of(name) is None)
    if lacking:
        pytest.fail("missing: " + "; ".join(f"{name} ({parts.PARTS[name].get})" for name in lacking))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _refused:
        terminalreporter.section("left out: parts that this machine cannot have")
        for name, count in sorted(_refused.items()):
            terminalreporter.line(f"{name}: {count} tests; {parts.refusal_of(name)}")
    if _left_out:
        terminalreporter.section("left out: parts that are not installed")
        for name, count in sorted(_left_out.items()):
            terminalreporter.line(f"{name}: {count} tests; to run them: {parts.PARTS[name].get}")


@pytest.fixture(autouse=True)
def tidy(request: pytest.FixtureRequest) -> None:
    """Every asynchronous test is watched by ``tidy_loop``."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("tidy_loop")


@pytest_asyncio.fixture
async def tidy_loop() -> AsyncIterator[None]:
    """Fails a test that called the loop's exception handler or left a task or a socket behind."""
    async with leaving_nothing_behind():
        yield
