"""Configuration files with `{{name}}` where a value goes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def render(template: Path, **values: object) -> str:
    """Fill in every placeholder. Raises ``KeyError`` for one without a value."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: str(values[found[1]]), template.read_text("utf-8"))
