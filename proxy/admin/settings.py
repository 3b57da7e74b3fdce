"""The configuration in use as plain JSON values, secrets hidden."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from proxy.config.schema import Alias, TcpAddress, UnixAddress, UpstreamUrl

if TYPE_CHECKING:
    from proxy.config.schema import Config

HIDDEN = "(hidden)"

_SECRET = re.compile(r"(?:^|_)(?:token|tokens|secret|secrets|password|passwords)$")
_WRITTEN = (TcpAddress, UnixAddress, UpstreamUrl, Alias)
"""Values that have a notation of their own."""


def settings(config: Config) -> dict[str, Any]:
    """Return every key with its value in use, in the shape of the TOML file. Files that hold secrets are
    named, not read; a key that is called a token, secret or password is hidden."""
    found = _plain(config)
    assert isinstance(found, dict)
    return found


def _plain(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, _WRITTEN):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _named(name, getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(name): _named(str(name), inner) for name, inner in value.items()}
    if isinstance(value, tuple | list | frozenset):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _named(name: str, value: object) -> object:
    return HIDDEN if value and _SECRET.search(name) else _plain(value)
