"""The corpus: bytes as files, with what must come of each in the folder's expected.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CORPUS = Path(__file__).resolve().parents[1] / "corpus"


@dataclass(frozen=True, slots=True)
class Case:
    """One file: its name without suffix, its bytes, and its table in expected.toml."""

    name: str
    raw: bytes
    expected: Mapping[str, Any]

    @property
    def refused(self) -> bool:
        return "reason" in self.expected


def cases(folder: str) -> list[Case]:
    """Return the cases of one folder of tests/corpus, in the order of expected.toml."""
    tables = tomllib.loads((CORPUS / folder / "expected.toml").read_text(encoding="utf-8"))
    files = {path.stem: path for path in (CORPUS / folder).iterdir() if path.suffix != ".toml"}
    if files.keys() != tables.keys():
        raise ValueError(f"{folder}: file or table missing: {sorted(files.keys() ^ tables.keys())}")
    return [Case(name, files[name].read_bytes(), table) for name, table in tables.items()]


def cuts(raw: bytes) -> Iterator[list[bytes]]:
    """Yield ``raw`` in pieces: whole, by line, byte by byte, and in two at every place."""
    yield [raw]
    yield raw.splitlines(keepends=True)
    yield [raw[at : at + 1] for at in range(len(raw))]
    for at in range(1, len(raw)):
        yield [raw[:at], raw[at:]]
