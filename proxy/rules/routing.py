"""Which route a request target takes: path in, ``Route`` or ``Mismatch`` out.

A path is read as received, and as the most forgiving servers behind us might read it (``_readings``). All
readings must lead to the same route. If they do not, the request is refused, because a rule that holds for
one reading would not hold for the other; and none may be stricter in small letters. What is forwarded is
never touched: nobody's slash is added, removed or collapsed.

Aliases (`[aliases]`) come first: the path that a name stands for is looked up in its stead, so that class,
caps and access are those of the real path, and no name opens what its own path would not.

Why comparing these readings is enough: the patterns hold no `%`, `;`, `\\` or empty segment, so whatever
partial reading (decoded but not collapsed, collapsed but not decoded, ...) matches a pattern, the
canonical one matches it too. Only parameters can take with them what would have been a slash (`;%2f`,
`;\\`), so they are also taken out first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import unquote_to_bytes

from proxy.config.presets import BUILT_IN, DEFAULT_ROUTE, DEFAULT_UPSTREAM
from proxy.errors import ConfigError, Problem
from proxy.message import SDK_CLASSES, SPOOLED_CLASSES, Access, EndpointClass, Route, SpoolMode
from proxy.rules.access import ACCESS, is_stricter, opener, passes_unasked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from proxy.config.schema import (
        Alias,
        AliasesConfig,
        Config,
        LimitsConfig,
        RouteConfig,
        SpoolConfig,
        TimeoutsConfig,
    )

T = TypeVar("T")

_INGEST = frozenset({EndpointClass.INGEST_V0, EndpointClass.INGEST_V1, EndpointClass.REPLAY})
_SMALL_BODIES = SDK_CLASSES - _INGEST
_RESEND_HELD = _INGEST | {EndpointClass.FLAGS}
_WEBSOCKET = frozenset({EndpointClass.PROTECTED, EndpointClass.PUBLIC, EndpointClass.STREAM})
_FAST = frozenset(EndpointClass) - {EndpointClass.STREAM, EndpointClass.NEVER}
_SDK_READS = frozenset({EndpointClass.SDK_READ, EndpointClass.BEARER_READ})

_ALIASED = SDK_CLASSES | {EndpointClass.PUBLIC}
"""What aliases lead to unless `aliases.app` is set."""

_UNCLEAN = re.compile(rb"[%;\\\x00]|//|/\.")
_WILDCARD = re.compile(rb"<[^/<>]*>")
_END = re.compile(rb"[?#]")
_PARAMETERS = re.compile(rb";[^/]*")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A target that has no one meaning; answered with ``status`` and never forwarded."""

    status: int
    reason: str
    detail: str


_AMBIGUOUS = Mismatch(
    400,
    "ambiguous_path",
    "the path means something else once it is decoded, or it holds a dot segment or NUL",
)


_NOT_ALIASED = Mismatch(404, "not_aliased", "there is nothing here")


def canonical(path: bytes) -> bytes | None:
    """Return ``path`` (which begins with ``/``, or is empty) as a forgiving server would read it.

    Percent-escapes are decoded once (malformed ones stay as they are), a backslash becomes a slash,
    ``;parameters`` of a segment and empty segments go; a trailing slash stays. ``None`` if a segment
    is then ``.`` or ``..`` (RFC 3986 section 5.2.4), or if there is a NUL.
    """
    if _UNCLEAN.search(path) is None:
        return path
    decoded = unquote_to_bytes(path).replace(b"\\", b"/")
    if b"\0" in decoded:
        return None
    segments = [segment.partition(b";")[0] for segment in decoded.split(b"/")]
    if b"." in segments or b".." in segments:
        return None
    kept = [segment for segment in segments if segment]
    if kept and not segments[-1]:
        kept.append(b"")
    return b"/" + b"/".join(kept)


def _readings(path: bytes) -> Iterator[bytes | None]:
    """What servers make of ``path`` beside itself. ``None``: they would not agree where it leads.

    Decoded once; decoded twice, parameters taken out between or only then; and each of these, and what came,
    with parameters taken out before anything else or not, and ended by a `?` or `#` that was encoded before.
    """
    once = canonical(path)
    if once == path:
        return
    yield once
    decoded = unquote_to_bytes(path)
    texts = [path, decoded]
    if once is not None and b"%" in decoded:
        yield canonical(once)
        yield canonical(decoded)
        texts.append(unquote_to_bytes(decoded))
    for text in texts:
        slashed = text.replace(b"\\", b"/")
        for bare in {text, _PARAMETERS.sub(b"", text), _PARAMETERS.sub(b"", slashed)}:
            yield canonical(bare)
            end = _END.search(bare)
            if end is not None:
                yield canonical(bare[: end.start()])


@dataclass(frozen=True, slots=True)
class _Matcher(Generic[T]):
    """Patterns to values: exact paths first, then those with wildcards, then the longest prefix.
    Of two equal patterns the first wins."""

    exact: Mapping[bytes, T]
    wildcards: tuple[tuple[re.Pattern[bytes], T], ...]
    prefixes: tuple[tuple[bytes, T], ...]

    @classmethod
    def of(cls, entries: Iterable[tuple[str, bool, T]]) -> _Matcher[T]:
        """Build from (pattern, does it exist with a trailing slash too, value)."""
        exact: dict[bytes, T] = {}
        wildcards: list[tuple[re.Pattern[bytes], T]] = []
        prefixes: list[tuple[bytes, T]] = []
        for pattern, slash, value in entries:
            path = pattern.encode()
            if path.endswith(b"*"):
                prefixes.append((path[:-1], value))
                continue
            path = path.rstrip(b"/") if slash else path
            if _WILDCARD.search(path) is None:
                for form in (path, path + b"/") if slash else (path,):
                    exact.setdefault(form, value)
            else:
                parts = (re.escape(part) for part in _WILDCARD.split(path))
                wildcards.append((re.compile(b"[^/]+".join(parts) + (b"/?" if slash else b"")), value))
        prefixes.sort(key=lambda entry: -len(entry[0]))
        return cls(exact, tuple(wildcards), tuple(prefixes))

    def find(self, path: bytes) -> tuple[T, bool] | None:
        """Return the value for ``path`` and whether its pattern names the path rather than a prefix."""
        value = self.exact.get(path)
        if value is not None:
            return value, True
        for shape, value in self.wildcards:
            if shape.fullmatch(path) is not None:
                return value, True
        for prefix, value in self.prefixes:
            if path.startswith(prefix):
                return value, False
        return None


def outgoing_target(route: Route, target: bytes) -> bytes:
    """Return what the upstream is asked for: ``target`` with its first ``route.cut`` bytes replaced by
    ``route.lead`` (a prefix is left out, an alias becomes the path that it stands for), else untouched."""
    return route.lead + target[route.cut :] if route.cut else target


@dataclass(frozen=True, slots=True)
class _Aliases:
    """`[aliases]`: exact ``names`` (both forms, with and without a trailing slash) and a ``prefix``, which is
    empty or ends in a slash."""

    prefix: bytes
    names: Mapping[bytes, bytes]
    classes: frozenset[EndpointClass]

    @classmethod
    def of(cls, config: AliasesConfig) -> _Aliases:
        names: dict[bytes, bytes] = {}
        for path, target in config.paths:
            slashed = path.endswith("/")
            name, real = path.removesuffix("/").encode(), target.removesuffix("/").encode()
            names[name + b"/"] = target.encode() if slashed else real + b"/"
            names[name] = real if slashed else target.encode()
        prefix = config.prefix.encode()
        everything = frozenset(EndpointClass) - {EndpointClass.NEVER}
        return cls(prefix and prefix + b"/", names, everything if config.app else _ALIASED)

    def real(self, path: bytes) -> bytes | None:
        """Return the path that ``path`` stands for; ``None``: it is no alias."""
        if self.prefix and path.startswith(self.prefix):
            return path[len(self.prefix) - 1 :]
        return self.names.get(path)


@dataclass(frozen=True, slots=True)
class _Configured:
    """What a configured route makes of a path, by the class that the built-in table gives that path.

    ``meant`` where the route is about that line of the table: it names the path, or lies within the line.
    ``covered`` where its prefix only happens to cover it: that closes nothing that the line opens.
    """

    prefix: str
    meant: Mapping[EndpointClass, Route]
    covered: Mapping[EndpointClass, Route]

    def of(self, built_in: Route, *, named: bool) -> Route:
        """``named``: the pattern is the path itself."""
        line = built_in.name
        within = line.endswith("*") and self.prefix.startswith(line[:-1])
        return (self.meant if named or within else self.covered)[built_in.cls]


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Every route of one configuration. Built once; size: the built-in table plus twenty routes for each
    configured one (a prefix may cover paths of every class)."""

    _configured: _Matcher[_Configured]
    _folded: _Matcher[_Configured]
    """The same with patterns in small letters."""
    _built_in: _Matcher[Route]
    _default: Route
    _aliases: _Aliases
    upstreams: frozenset[str]
    """Names of all upstreams that some route leads to."""
    patterns: tuple[str, ...]
    """Every pattern that a path can match, configured ones first."""

    @classmethod
    def of(cls, config: Config) -> RoutingTable:
        """Build the table. Raises ``ConfigError`` for a configured path that no request could take,
        because its readings differ, and for an alias of a path that none may lead to; the names of
        upstreams are taken as they are."""
        problems = [_unreachable(route.path) for route in config.routes if not _is_plain(route.path)]
        if problems:
            raise ConfigError(*problems)

        def plain(name: str, endpoint: EndpointClass) -> Route:
            return _route(name, endpoint, DEFAULT_UPSTREAM, config)

        configured = [(route.path, True, _configured(route, config)) for route in config.routes]
        table = cls(
            _Matcher.of(configured),
            _Matcher.of((path.lower(), slash, route) for path, slash, route in configured),
            _Matcher.of((preset.path, preset.slash, plain(preset.path, preset.cls)) for preset in BUILT_IN),
            plain(DEFAULT_ROUTE, EndpointClass.PROTECTED),
            _Aliases.of(config.aliases),
            frozenset({DEFAULT_UPSTREAM, *(route.upstream for route in config.routes if route.upstream)}),
            tuple(
                dict.fromkeys([*(route.path for route in config.routes), *(line.path for line in BUILT_IN)])
            ),
        )
        problems = [_misleading(alias) for alias in config.aliases.paths if table.at(alias.path) is None]
        if problems:
            raise ConfigError(*problems)
        return table

    def at(self, path: str) -> Route | None:
        """Return the route of a path as text, ``None`` where it has none."""
        found = self.route(path.encode())
        return found if isinstance(found, Route) else None

    def route(self, target: bytes) -> Route | Mismatch:
        """Return the route of an origin-form ``target``, or of ``*`` (RFC 9112 section 3.2).

        Linear in the length of the target; any other form is ambiguous.
        """
        if target == b"*":
            return self._default
        path = target.partition(b"?")[0]
        if not path.startswith(b"/"):
            return _AMBIGUOUS
        route = self._named(path)
        if self._closes_in_small_letters(path, route):
            return _AMBIGUOUS
        for reading in _readings(path):
            if reading is None or self._named(reading) != route:
                return _AMBIGUOUS
            if self._closes_in_small_letters(reading, route):
                return _AMBIGUOUS
        return route

    def _closes_in_small_letters(self, path: bytes, route: Route | Mismatch) -> bool:
        """Would a server that takes capitals for small letters lead to what is for fewer? It hears the path
        that an alias stands for."""
        if isinstance(route, Mismatch):
            return False
        path = self._aliases.real(path) or path
        small = path.lower()
        return small != path and is_stricter(self._at(small, self._folded).access, route.access)

    def _named(self, path: bytes) -> Route | Mismatch:
        """The route of one reading of a path, which may be an alias."""
        real = self._aliases.real(path)
        if real is None:
            return self._at(path, self._configured)
        route = self._at(real, self._configured)
        if route.cls not in self._aliases.classes:
            return _NOT_ALIASED
        if path.endswith(real):
            return replace(route, cut=len(path) - len(real) + route.cut)
        return replace(route, cut=len(path), lead=route.lead + real[route.cut :])

    def _at(self, path: bytes, routes: _Matcher[_Configured]) -> Route:
        found = self._built_in.find(path)
        built_in = self._default if found is None else found[0]
        configured = routes.find(path)
        if configured is None:
            return built_in
        route, named = configured
        # A prefix such as `/*` is not meant to open what must never be public: only its own name does.
        if built_in.cls is EndpointClass.NEVER and not named:
            return built_in
        return route.of(built_in, named=named)


def _is_plain(pattern: str) -> bool:
    path = pattern.encode().removesuffix(b"*")
    return path.startswith(b"/") and canonical(path) == path


def _unreachable(pattern: str) -> Problem:
    return Problem("routes[].path", pattern, "must begin with / and hold no %, ;, \\, // or dot segment")


def _misleading(alias: Alias) -> Problem:
    allowed = "must lead to an event endpoint, an SDK's path or a public one, unless aliases.app is true"
    return Problem("aliases.paths", str(alias), allowed)


def _configured(route: RouteConfig, config: Config) -> _Configured:
    made = {cls: _configured_route(route, cls, config) for cls in EndpointClass}
    meant = made if route.cls is None else dict.fromkeys(EndpointClass, made[route.cls])
    covered = {
        cls: _with_access(each, opener(each.access, ACCESS[cls]), config) for cls, each in meant.items()
    }
    return _Configured(route.path.removesuffix("*"), meant, covered)


def _configured_route(route: RouteConfig, cls: EndpointClass, config: Config) -> Route:
    upstream = route.upstream or DEFAULT_UPSTREAM
    made = _route(route.path, cls, upstream, config, route.spool)
    made = made if route.access is None else _with_access(made, route.access, config)
    return replace(
        made,
        body_limit=made.body_limit if route.body_limit is None else route.body_limit,
        first_byte_timeout=made.first_byte_timeout
        if route.first_byte_timeout is None
        else route.first_byte_timeout,
        answer_stall_timeout=made.answer_stall_timeout
        if route.answer_stall_timeout is None
        else route.answer_stall_timeout,
        websocket=made.websocket if route.websocket is None else route.websocket,
        cut=len(route.strip),
    )


def _with_access(route: Route, access: Access, config: Config) -> Route:
    return replace(route, access=access, fast=_is_fast(route.cls, access, config))


def _is_fast(cls: EndpointClass, access: Access, config: Config) -> bool:
    """The fast path asks nobody for credentials."""
    return cls in _FAST and passes_unasked(access, config.access)


def _route(
    name: str, cls: EndpointClass, upstream: str, config: Config, spool: SpoolMode | None = None
) -> Route:
    """The route of a class with nothing configured for it but ``spool``."""
    limits, timeouts = config.limits, config.timeouts
    spool = _spool_mode(cls, spool, config.spool)
    first_byte = _first_byte_timeout(cls, timeouts)
    if spool is SpoolMode.FALLBACK:
        first_byte = min(first_byte, config.spool.first_byte)
    return Route(
        name=name,
        cls=cls,
        upstream=upstream,
        body_limit=_body_limit(cls, limits),
        body_timeout=timeouts.body_ingest if cls in SDK_CLASSES else timeouts.body_app,
        connect_timeout=timeouts.connect_flags if cls is EndpointClass.FLAGS else timeouts.connect,
        first_byte_timeout=first_byte,
        answer_stall_timeout=timeouts.stream_stall if cls is EndpointClass.STREAM else timeouts.answer_stall,
        resend_held=cls in _RESEND_HELD,
        websocket=cls in _WEBSOCKET,
        spool=spool,
        fast=_is_fast(cls, ACCESS[cls], config),
        sdk=cls in SDK_CLASSES,
        access=ACCESS[cls],
        drop_cookies=cls in _INGEST and config.forwarding.drop_ingest_cookies,
    )


def _spool_mode(cls: EndpointClass, wished: SpoolMode | None, config: SpoolConfig) -> SpoolMode:
    if not config.directory or cls not in SPOOLED_CLASSES:
        return SpoolMode.OFF
    return config.mode if wished is None else wished


def _body_limit(cls: EndpointClass, limits: LimitsConfig) -> int:
    if cls is EndpointClass.REPLAY:
        return limits.body_replay
    if cls in _INGEST:
        return limits.body_ingest
    return limits.body_flags if cls in _SMALL_BODIES else limits.body_app


def _first_byte_timeout(cls: EndpointClass, timeouts: TimeoutsConfig) -> float:
    if cls in _INGEST:
        return timeouts.first_byte_ingest
    if cls is EndpointClass.FLAGS:
        return timeouts.first_byte_flags
    return timeouts.first_byte_sdk if cls in _SDK_READS else timeouts.first_byte_app
