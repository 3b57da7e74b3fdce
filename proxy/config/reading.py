"""One source of settings (a file, the environment, the flags, a mapping) read into typed values.

A ``Reading`` is filled key by key; nothing in it is merged or defaulted yet, so that every source's
mistakes are found, also those that a stronger source would hide.
"""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxy.config import keys, notation
from proxy.config.notation import NotationError, shown
from proxy.config.schema import Alias, IPNetwork, ListenAddress, UpstreamUrl
from proxy.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.config.keys import Key

MAX_TABLES = 1000
MAX_ENTRIES = 10_000
"""The most entries of a list of tables (``[[routes]]``), and of any other list."""

_INLINE_EXAMPLE = '[{path = "/s*", upstream = "replay"}]'

MAX_GUESSES = 100
"""The problems for which the nearest known key is searched; that search is slow."""

_TEXT_READERS: dict[Any, Callable[[str], Any]] = {
    UpstreamUrl: notation.upstream_url,
    ListenAddress: notation.listen_address,
    IPNetwork: notation.network,
    Alias: notation.alias,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that an operator gave: typed, as it was written, the key it was written under (``said``)
    and the source that said it."""

    value: Any
    shown: str
    said: str
    where: str


class Reading:
    """Settings and problems of one source.

    ``settings`` are by dotted path (``upstreams.replay.url``; a list of tables is one setting). ``attempted``
    holds the paths that were given, readable or not (``None`` for a key that may be unset counts as not
    given), ``upstreams`` every upstream named.
    """

    def __init__(self) -> None:
        self.settings: dict[str, Setting] = {}
        self.problems: list[Problem] = []
        self.attempted: set[str] = set()
        self.upstreams: dict[str, str] = {}

    def take_mapping(self, mapping: Mapping[Any, Any], where: str) -> None:
        """Read a mapping of the shape of a TOML document."""
        for name, value in _named(mapping):
            if name in keys.sections():
                self._take_table(name, value, where)
            elif name == "upstreams":
                self._take_upstreams(value, where)
            elif "." in name:  # a dotted key in quotes: TOML does not split it, so neither do we
                self._reject_unknown(name, value, where)
            else:
                self.take(name, value, where)

    def _take_table(self, path: str, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            self._reject(path, value, f"must be a table: [{path}]", where)
            return
        for name, inner in _named(value):
            self.take(f"{path}.{name}", inner, where)

    def _take_upstreams(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            self._reject("upstreams", value, "must be tables: [upstreams.NAME]", where)
            return
        for name, table in _named(value):
            if self._name_upstream(name, where):
                self._take_table(f"upstreams.{name}", table, where)

    def _name_upstream(self, name: str, where: str) -> bool:
        try:
            self.upstreams[notation.upstream_name(name)] = where
        except NotationError as error:
            self._reject("upstreams", name, f"an upstream's name {error}", where)
            return False
        return True

    def take(self, path: str, value: object, where: str, *, textual: bool = False) -> None:
        """Read one value. ``textual`` says that the source knows only text (environment, flags), so that
        numbers, booleans and tables are read from text too."""
        key = keys.find(path)
        if key is None:
            self._reject_unknown(path, value, where)
            return
        if path.startswith("upstreams.") and not self._name_upstream(path.split(".")[1], where):
            return
        if value is None and key.optional:
            return
        self.attempted.add(path)
        if isinstance(value, str) and textual:
            value = value.strip()
        try:
            found = self._value(key, value, path, where, textual)
        except NotationError as error:
            self._reject(path, value, str(error), where)
        else:
            self.settings[path] = Setting(found, shown(value), path, where)

    def _value(self, key: Key, value: object, path: str, where: str, textual: bool) -> Any:
        if key.tables:
            return self._tables(key, value, where, textual)
        if key.many:
            return self._list(key, value, path, where)
        return _single(key, value, textual)

    def _list(self, key: Key, value: object, path: str, where: str) -> tuple[Any, ...]:
        if isinstance(value, str):
            value = [item.strip() for item in value.split(",") if item.strip()]
        if not isinstance(value, list | tuple):
            raise NotationError(f"must be {key.allowed}")
        if not (key.minimum or 0) <= len(value) <= MAX_ENTRIES:
            raise NotationError(f"must have {int(key.minimum or 0)} to {MAX_ENTRIES} entries")
        found = []
        for item in value:
            try:
                found.append(_single(key, item, textual=False))
            except NotationError as error:
                self._reject(path, item, str(error), where)
        return tuple(dict.fromkeys(found)) if key.kind is IPNetwork else tuple(found)

    def _tables(self, key: Key, value: object, where: str, textual: bool) -> tuple[Any, ...]:
        if isinstance(value, str) and textual:
            value = _inline_toml(key.name, value)
        if not isinstance(value, list | tuple) or len(value) > MAX_TABLES:
            raise NotationError(f"must be a list of at most {MAX_TABLES} tables: [[{key.name}]]")
        return tuple(self._entry(key, f"{key.name}[{at}]", table, where) for at, table in enumerate(value))

    def _entry(self, array: Key, path: str, table: object, where: str) -> Any:
        """Read one table of a list. A key that must be given and is not readable (a problem already) is
        ``None``, so that the other entries keep their numbers."""
        known = keys.keys_of(array.kind)
        required = [name for name, key in known.items() if key.required]
        if not isinstance(table, Mapping):
            self._reject(path, table, f"must be a table: [[{array.name}]]", where)
            return array.kind(**dict.fromkeys(required))
        values: dict[str, Any] = dict.fromkeys(required)
        for name, value in _named(table):
            if name not in known:
                self._reject_unknown(f"{path}.{name}", value, where)
            elif value is not None or not known[name].optional:
                try:
                    values[name] = self._entry_value(known[name], value, f"{path}.{name}", where)
                except NotationError as error:
                    self._reject(f"{path}.{name}", value, str(error), where)
        for name in required:
            if name not in table:
                self._reject(f"{path}.{name}", None, f"must be given: {known[name].allowed}", where)
        return array.kind(**values)

    def _entry_value(self, key: Key, value: object, path: str, where: str) -> Any:
        return self._list(key, value, path, where) if key.many else _single(key, value, textual=False)

    def _reject_unknown(self, path: str, value: object, where: str) -> None:
        if path in keys.sections() or path == "upstreams":
            self._reject(path, value, "is a table: name a key in it", where)
        else:
            near = keys.nearest(path) if len(self.problems) < MAX_GUESSES else None
            self._reject(path, value, "is not a known key", where, nearest=near)

    def _reject(self, path: str, value: object, allowed: str, where: str, nearest: str | None = None) -> None:
        text = "(nothing)" if value is None else shown(value)
        self.problems.append(Problem(notation.printable(path), text, allowed, where, nearest))

    def spell_out_upstream(self) -> None:
        """Turn the short ``upstream`` into ``upstreams.default.url``, unless both are given."""
        url = "upstreams.default.url"
        if "upstream" in self.attempted:
            self.attempted.add(url)
            self.upstreams.setdefault("default", "")
        short = self.settings.pop("upstream", None)
        if short is None:
            return
        if url in self.settings:
            allowed = f"says the same as {url} = {self.settings[url].shown}: give only one of the two"
            self.problems.append(Problem(short.said, short.shown, allowed, short.where))
        self.settings[url] = short


def _named(mapping: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """The items of a mapping; a name that is no text (only an embedder can give one) by its type."""
    for name, value in mapping.items():
        yield (name if isinstance(name, str) else f"({type(name).__name__})"), value


def _single(key: Key, value: object, textual: bool) -> Any:
    """Read one value that is not a list."""
    if key.kind is bool:
        return _boolean(value, textual)
    if key.kind is int or key.kind is float:
        return _number(key, value, textual)
    if not isinstance(value, str):
        raise NotationError(f"must be {key.allowed_one}")
    if not value.isprintable():
        raise NotationError("must not contain control characters")
    if isinstance(key.kind, type) and issubclass(key.kind, enum.Enum):
        return _member(key, value)
    if value == "" and key.default == "":
        return value
    read = _TEXT_READERS.get(key.kind) or notation.FORMS[key.form][1]
    return read(value)


def _boolean(value: object, textual: bool) -> bool:
    if isinstance(value, str) and textual:
        return notation.boolean(value)
    if not isinstance(value, bool):
        raise NotationError("must be true or false")
    return value


def _member(key: Key, value: str) -> Any:
    try:
        return key.kind(value)
    except ValueError:
        raise NotationError(f"must be {key.allowed_one}") from None


def _number(key: Key, value: object, textual: bool) -> Any:
    if key.words is not None and isinstance(value, str) and value in {word.value for word in key.words}:
        return key.words(value)
    number = _number_of_text(key, value, textual) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int if key.kind is int else int | float):
        raise NotationError(f"must be {key.allowed_one}")
    if not (key.minimum or 0) <= number <= (key.maximum or 0):  # neither holds for NaN
        raise NotationError(f"must be {key.allowed_one}")
    return int(number) if key.kind is int else float(number)


def _number_of_text(key: Key, text: str, textual: bool) -> int | float:
    """A number in quotes needs its unit where the source could have said it without quotes."""
    if key.unit in ("bytes", "s") and (textual or not text[-1:].isdigit()):
        return notation.size(text) if key.unit == "bytes" else notation.duration(text)
    if not textual:
        quotes = ", without quotes" if key.words is None else "; the number without quotes"
        raise NotationError(f"must be {key.allowed_one}{quotes}")
    try:
        return notation.whole(text) if key.kind is int else notation.fraction(text)
    except NotationError:
        raise NotationError(f"must be {key.allowed_one}") from None


def _inline_toml(name: str, text: str) -> object:
    """Read a list of tables from one line of TOML, for the sources that have only text."""
    try:
        document = tomllib.loads(f"{name} = {text}")
    except (ValueError, RecursionError):
        document = {}
    if document.keys() != {name}:
        raise NotationError(f"must be written as in the file: {_INLINE_EXAMPLE}")
    return document[name]
