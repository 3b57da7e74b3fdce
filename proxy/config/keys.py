"""The keys of the schema as values: their dotted paths, types, bounds, environment names.

Everything that walks the schema (loader, environment, documentation) walks it through here, so that a
key which is added in schema.py is known everywhere at once.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import operator
import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxy.config import notation
from proxy.config.schema import (
    Alias,
    Config,
    IPNetwork,
    ListenAddress,
    UpstreamConfig,
    UpstreamUrl,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ENVIRONMENT_PREFIX = "POSTHOG_PROXY_"

NAME = "NAME"
"""Stands for an upstream's name in the path of a key: ``upstreams.NAME.url``."""

ENTRY = "[]"
"""Stands behind the name of a list of tables in the path of a key: ``routes[].path``."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key. ``kind`` is its type without ``None``; for a list the type of its elements.

    ``words`` are what may stand in place of a number (``int | Auto``). ``default`` is
    ``dataclasses.MISSING`` where the key must be given.
    """

    path: str
    kind: Any
    many: bool
    optional: bool
    words: type[enum.Enum] | None
    default: Any
    doc: str
    unit: str
    why: str
    minimum: float | None
    maximum: float | None
    form: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def tables(self) -> bool:
        """Whether it is a list of tables (``[[routes]]``)."""
        return self.many and _is_table(self.kind)

    @property
    def required(self) -> bool:
        """Whether the key has no default."""
        return self.default is dataclasses.MISSING

    @property
    def allowed(self) -> str:
        """What may stand there, as a phrase: for errors and for the documentation."""
        if self.tables:
            return "a list of tables"
        if self.many:
            return f"a list (each {self.allowed_one}), or one text with commas"
        return self.allowed_one

    @property
    def allowed_one(self) -> str:
        """The same for a single element of a list."""
        if self.kind is bool:
            return "true or false"
        if isinstance(self.kind, type) and issubclass(self.kind, enum.Enum):
            return "one of " + ", ".join(f"`{member.value}`" for member in self.kind)
        if self.kind is int or self.kind is float:
            return self._allowed_number()
        return _PHRASES.get(self.kind) or notation.FORMS[self.form][0]

    def _allowed_number(self) -> str:
        low, high = self.minimum or 0, self.maximum or 0
        if self.unit == "bytes":
            return f"a size from {notation.size_text(low)} to {notation.size_text(high)}"
        if self.unit == "s":
            return f"a time from {notation.duration_text(low)} to {notation.duration_text(high)}"
        kind = "a whole number" if self.kind is int else "a number"
        unit = f" of {self.unit}" if self.unit else ""
        words = "".join(f", or `{word.value}`" for word in self.words or ())
        return f"{kind}{unit} from {low:,} to {high:,}{words}"


_PHRASES: dict[Any, str] = {
    Alias: "`/public-path=/posthog-path`",
    IPNetwork: "an address or a CIDR block",
    ListenAddress: "`HOST:PORT` or `unix:/path`",
    UpstreamUrl: "`http://host[:port]`, `https://host[:port]` or `unix:/path`",
}


@functools.cache
def keys_of(table: type, prefix: str = "") -> Mapping[str, Key]:
    """Return the leaf keys of one dataclass of the schema by their names; sub-tables are left out."""
    hints = typing.get_type_hints(table)
    found = {}
    for field in dataclasses.fields(table):
        kind, many, optional = _resolve(hints[field.name])
        if _is_table(kind) and not many:
            continue
        path = f"{prefix}.{field.name}" if prefix else field.name
        words = _words(hints[field.name])
        found[field.name] = Key(path, kind, many, optional, words, field.default, **field.metadata)
    return types.MappingProxyType(found)


def _words(hint: Any) -> type[enum.Enum] | None:
    """The enumeration in ``int | Auto``."""
    others = typing.get_args(hint)[1:] if isinstance(hint, types.UnionType) else ()
    return next((kind for kind in others if issubclass(kind, enum.Enum)), None)


def _resolve(hint: Any) -> tuple[Any, bool, bool]:
    """Take ``X | None``, ``X | Words`` and ``tuple[X, ...]`` apart: X, whether it is a list, whether it may
    be absent."""
    arguments = typing.get_args(hint)
    if hint in _PHRASES:  # some are unions of their own
        return hint, False, False
    if isinstance(hint, types.UnionType):
        kinds = [kind for kind in arguments if kind is not types.NoneType]
        whole = functools.reduce(operator.or_, kinds)
        return whole if whole in _PHRASES else kinds[0], False, len(kinds) < len(arguments)
    if typing.get_origin(hint) is tuple:
        return arguments[0], True, False
    if arguments:  # Mapping[str, UpstreamConfig]
        return arguments[1], False, False
    return hint, False, False


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and kind is not UpstreamUrl and dataclasses.is_dataclass(kind)


@functools.cache
def sections() -> Mapping[str, type]:
    """Return the plain tables of the file by name: everything but ``upstreams`` and lists of tables."""
    hints = typing.get_type_hints(Config)
    return types.MappingProxyType({name: kind for name, kind in hints.items() if _is_table(kind)})


@functools.cache
def arrays() -> Mapping[str, type]:
    """Return the lists of tables (``[[routes]]``) by name, with the type of their entries."""
    found = {name: key.kind for name, key in keys_of(Config).items() if key.tables}
    return types.MappingProxyType(found)


@functools.cache
def all_keys() -> Mapping[str, Key]:
    """Return every key by its dotted path; upstreams under ``upstreams.NAME``, the
    entries of a list of tables under ``routes[]``."""
    groups = [keys_of(Config), keys_of(UpstreamConfig, f"upstreams.{NAME}")]
    groups += [keys_of(table, name) for name, table in sections().items()]
    groups += [keys_of(table, name + ENTRY) for name, table in arrays().items()]
    return types.MappingProxyType({key.path: key for group in groups for key in group.values()})


def find(path: str) -> Key | None:
    """Return the key that a concrete dotted path (``upstreams.replay.url``) means, if there is one."""
    parts = path.split(".")
    if len(parts) == 3 and parts[0] == "upstreams":
        return keys_of(UpstreamConfig, f"upstreams.{NAME}").get(parts[2])
    key = all_keys().get(path)
    return None if key is None or NAME in parts or ENTRY in path else key


def environment_name(path: str) -> str:
    """Return the environment variable of a dotted path: ``POSTHOG_PROXY_LIMITS__HEAD_BYTES``."""
    return ENVIRONMENT_PREFIX + path.replace("-", "_").replace(".", "__").upper()


def nearest(path: str) -> str | None:
    """Return the known key that an unknown dotted path most likely means.

    First the same name in another table, then a sibling that is spelled much like it, then (where the
    table is unknown too) the most similar path of all. At most 80 characters of ``path`` are compared,
    and none is repeated that cannot be printed.
    """
    path = notation.printable(path, 80)
    known = _spelled_like(path)
    table, _, name = path.rpartition(".")
    namesakes = [candidate for candidate in known if candidate.rpartition(".")[2] == name]
    if namesakes:
        return namesakes[0]
    siblings = [candidate for candidate in known if candidate.rpartition(".")[0] == table]
    sibling = closest_word(name, [candidate.rpartition(".")[2] for candidate in siblings])
    if sibling is not None:
        return f"{table}.{sibling}" if table else sibling
    return closest_word(path, known, likeness=0.75) if not table or not siblings else None


def _spelled_like(path: str) -> list[str]:
    """Every known path, with the upstream's name or the entry's number that ``path`` has in it."""
    parts = path.split(".")
    upstream = parts[1] if len(parts) > 1 and parts[0] == "upstreams" else "default"
    number = parts[0].partition("[")[2].rstrip("]") or "0"
    return [known.replace(f".{NAME}.", f".{upstream}.").replace(ENTRY, f"[{number}]") for known in all_keys()]


def closest_word(word: str, candidates: Iterable[str], likeness: float = 0.6) -> str | None:
    """Return the most similar of ``candidates``, or ``None`` where none resembles ``word``."""
    import difflib  # only an error needs it

    return next(iter(difflib.get_close_matches(word[:80], list(candidates), n=1, cutoff=likeness)), None)
