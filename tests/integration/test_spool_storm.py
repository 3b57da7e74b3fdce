"""Worker, parent and stand-in are killed at random moments while clients send: every event that was
acknowledged arrives. `make crashes` does it two hundred times."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.storm import storm

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = int(os.environ.get("SPOOL_ROUNDS", "5"))
SEED = int(os.environ.get("SPOOL_SEED", "7"))


@pytest.mark.parametrize("mode", ["fallback", "first"])
def test_no_acknowledged_event_is_lost(mode: str, tmp_path: Path) -> None:
    acknowledged, refused, copies = storm(tmp_path, mode, rounds=ROUNDS, seed=SEED)
    print(f"{mode}: {acknowledged} acknowledged, {refused} refused, {copies} copies")
