"""Which route a request target takes: path in, ``Route`` or ``Mismatch`` out.

A path is read twice: as received, and as the most forgiving server behind us might read it (see
``canonical``). Both readings must lead to the same route. If they do not, the request is refused, because
a rule that holds for one reading would not hold for the other. What is forwarded is never touched:
nobody's slash is added, removed or collapsed.

Aliases (`[aliases]`) come first: the path that a name stands for is looked up in its stead, so that class,
caps and access are those of the real path, and no name opens what its own path would not.

Why comparing two readings is enough: the patterns hold no `%`, `;`, `\\` or empty segment, so whatever
partial reading (decoded but not collapsed, collapsed but not decoded, ...) matches a pattern, the
canonical one matches it too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import unquote_to_bytes

from proxy.config.presets import BUILT_IN, DEFAULT_ROUTE, DEFAULT_UPSTREAM
from proxy.errors import ConfigError, Problem
from proxy.message import SDK_CLASSES, EndpointClass, Route

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxy.config.schema import Alias, AliasesConfig, Config, LimitsConfig, RouteConfig, TimeoutsConfig

T = TypeVar("T")

_INGEST = frozenset({EndpointClass.INGEST_V0, EndpointClass.INGEST_V1, EndpointClass.REPLAY})
_SMALL_BODIES = SDK_CLASSES - _INGEST
_RESEND_HELD = _INGEST | {EndpointClass.FLAGS}
_WEBSOCKET = frozenset({EndpointClass.PROTECTED, EndpointClass.PUBLIC, EndpointClass.STREAM})
_SPOOLABLE = frozenset({EndpointClass.INGEST_V0, EndpointClass.REPLAY})
_FAST = _INGEST | {EndpointClass.FLAGS, EndpointClass.SDK_READ}
_SDK_READS = frozenset({EndpointClass.SDK_READ, EndpointClass.BEARER_READ})

_ALIASED = SDK_CLASSES | {EndpointClass.PUBLIC}
"""What aliases lead to unless `aliases.app` is set."""

_UNCLEAN = re.compile(rb"[%;\\\x00]|//|/\.")
_WILDCARD = re.compile(rb"<[^/<>]*>")


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
    """Return ``path`` (which begins with ``/``) as a forgiving server would read it.

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
class RoutingTable:
    """Every route of one configuration. Built once; size: the built-in table plus ten routes for each
    configured one (a prefix may cover paths of every class)."""

    _configured: _Matcher[Mapping[EndpointClass, Route]]
    _built_in: _Matcher[Route]
    _default: Route
    _aliases: _Aliases
    upstreams: frozenset[str]
    """Names of all upstreams that some route leads to."""

    @classmethod
    def of(cls, config: Config) -> RoutingTable:
        """Build the table. Raises ``ConfigError`` for a configured path that no request could take,
        because its two readings differ, and for an alias of a path that none may lead to; the names of
        upstreams are taken as they are."""
        problems = [_unreachable(route.path) for route in config.routes if not _is_plain(route.path)]
        if problems:
            raise ConfigError(*problems)

        def plain(name: str, endpoint: EndpointClass) -> Route:
            return _route(name, endpoint, DEFAULT_UPSTREAM, config)

        table = cls(
            _Matcher.of((route.path, True, _by_class(route, config)) for route in config.routes),
            _Matcher.of((preset.path, preset.slash, plain(preset.path, preset.cls)) for preset in BUILT_IN),
            plain(DEFAULT_ROUTE, EndpointClass.PROTECTED),
            _Aliases.of(config.aliases),
            frozenset({DEFAULT_UPSTREAM, *(route.upstream for route in config.routes if route.upstream)}),
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
        reading = canonical(path) if path.startswith(b"/") else None
        if reading is None:
            return _AMBIGUOUS
        route = self._named(reading)
        if reading != path and self._named(path) != route:
            return _AMBIGUOUS
        return route

    def _named(self, path: bytes) -> Route | Mismatch:
        """The route of one reading of a path, which may be an alias."""
        real = self._aliases.real(path)
        if real is None:
            return self._at(path)
        route = self._at(real)
        if route.cls not in self._aliases.classes:
            return _NOT_ALIASED
        if path.endswith(real):
            return replace(route, cut=len(path) - len(real) + route.cut)
        return replace(route, cut=len(path), lead=route.lead + real[route.cut :])

    def _at(self, path: bytes) -> Route:
        found = self._built_in.find(path)
        built_in = self._default if found is None else found[0]
        configured = self._configured.find(path)
        if configured is None:
            return built_in
        by_class, named = configured
        # A prefix such as `/*` is not meant to open what must never be public: only its own name does.
        if built_in.cls is EndpointClass.NEVER and not named:
            return built_in
        return by_class[built_in.cls]


def _is_plain(pattern: str) -> bool:
    path = pattern.encode().removesuffix(b"*")
    return path.startswith(b"/") and canonical(path) == path


def _unreachable(pattern: str) -> Problem:
    return Problem("routes[].path", pattern, "must begin with / and hold no %, ;, \\, // or dot segment")


def _misleading(alias: Alias) -> Problem:
    allowed = "must lead to an event endpoint, an SDK's path or a public one, unless aliases.app is true"
    return Problem("aliases.paths", str(alias), allowed)


def _by_class(route: RouteConfig, config: Config) -> Mapping[EndpointClass, Route]:
    """What ``route`` makes of a path, by the class that the built-in table gives that path."""
    made = {cls: _configured_route(route, cls, config) for cls in EndpointClass}
    return made if route.cls is None else dict.fromkeys(EndpointClass, made[route.cls])


def _configured_route(route: RouteConfig, cls: EndpointClass, config: Config) -> Route:
    upstream = route.upstream or DEFAULT_UPSTREAM
    made = _route(route.path, cls, upstream, config)
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


def _route(name: str, cls: EndpointClass, upstream: str, config: Config) -> Route:
    """The route of a class with nothing configured for it."""
    limits, timeouts = config.limits, config.timeouts
    return Route(
        name=name,
        cls=cls,
        upstream=upstream,
        body_limit=_body_limit(cls, limits),
        body_timeout=timeouts.body_ingest if cls in SDK_CLASSES else timeouts.body_app,
        connect_timeout=timeouts.connect_flags if cls is EndpointClass.FLAGS else timeouts.connect,
        first_byte_timeout=_first_byte_timeout(cls, timeouts),
        answer_stall_timeout=timeouts.stream_stall if cls is EndpointClass.STREAM else timeouts.answer_stall,
        resend_held=cls in _RESEND_HELD,
        websocket=cls in _WEBSOCKET,
        spoolable=cls in _SPOOLABLE,
        fast=cls in _FAST,
        drop_cookies=cls in _INGEST and config.forwarding.drop_ingest_cookies,
    )


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
