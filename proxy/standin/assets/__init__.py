"""The files that the stand-in serves, read once."""

from __future__ import annotations

from importlib.resources import files


def asset(name: str) -> str:
    """The text of one file of this folder."""
    return files(__name__).joinpath(name).read_text("utf-8")
