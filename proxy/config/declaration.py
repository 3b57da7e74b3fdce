"""How a configuration key is declared: ``key``, a dataclass field that carries its own documentation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

KIB = 1024
MIB = 1024 * 1024

CEILINGS: Mapping[str, float] = {"s": 7 * 86_400, "bytes": 1024 * 1024 * MIB}
"""The largest value of a number that names no ``maximum``, by unit: a week, 1 TiB."""

COUNT_CEILING = 1_000_000
"""The same for everything that is counted."""


def key(
    default: Any = dataclasses.MISSING,
    *,
    doc: str,
    unit: str = "",
    why: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    form: str = "",
) -> Any:
    """Declare a key. ``doc`` is one sentence; ``why`` names the precedent or the PostHog fact behind
    the default; ``minimum`` and ``maximum`` bound numbers (both allowed values themselves) and the length
    of lists; ``form`` names what a text must look like (notation.FORMS)."""
    if maximum is None and minimum is not None:
        maximum = CEILINGS.get(unit, COUNT_CEILING)
    metadata = {"doc": doc, "unit": unit, "why": why, "minimum": minimum, "maximum": maximum, "form": form}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
