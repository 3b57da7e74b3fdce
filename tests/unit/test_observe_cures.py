"""Every warning and every error says what cures it."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.config.schema import LogFormat, LogLevel
from proxy.observe.cures import CURES
from proxy.observe.log import error_line

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[2] / "proxy"
LEVELS = {"WARNING", "ERROR"}


def said() -> Iterator[tuple[str, bool]]:
    """The events that the code tells of as a warning or an error, and whether the call has its own cure."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or len(node.args) < 2:
                continue
            level, event = node.args[:2]
            if isinstance(level, ast.Attribute) and level.attr in LEVELS and isinstance(event, ast.Constant):
                yield str(event.value), any(keyword.arg == "cure" for keyword in node.keywords)


def test_every_warning_and_error_names_its_cure() -> None:
    events = list(said())
    assert len(events) > 15
    assert {event for event, cured in events if not cured} <= CURES.keys()


def test_every_cure_is_of_an_event_that_there_is() -> None:
    code = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py") if path.name != "cures.py")
    assert [event for event in CURES if f'"{event}"' not in code] == []


@pytest.mark.parametrize("level", [LogLevel.WARNING, LogLevel.ERROR])
def test_a_line_ends_in_its_cure(level: LogLevel) -> None:
    line = json.loads(error_line(level, "parent_gone", 1.0, worker=1))
    assert list(line) == ["ts", "level", "event", "worker", "cure"]
    assert line["cure"] == CURES["parent_gone"]
    assert error_line(level, "parent_gone", 1.0, LogFormat.TEXT).endswith(b'starts it again"\n')


def test_a_cure_of_its_own_wins_and_what_is_no_error_needs_none() -> None:
    assert json.loads(error_line(LogLevel.ERROR, "parent_gone", 1.0, cure="none"))["cure"] == "none"
    assert "cure" not in json.loads(error_line(LogLevel.INFO, "parent_gone", 1.0))
    assert "cure" not in json.loads(error_line(LogLevel.ERROR, "of somebody else", 1.0))
