"""May this answer be kept, for whom, how long, and what is said when it is given again (RFC 9111).

Only PostHog's assets and SDK configurations are kept: GET on `/static/*` and `/array/*`. What is kept is
found again by upstream, Host as sent there, path and whole query, whether there was an Origin, the class of
the User-Agent (see ``agent_class``), and the values of every header that Vary names; Accept-Encoding always,
so that pre-compressed variants never mix even where an origin forgets to say Vary.

Stricter than the RFC where a mistake would be everybody's: nothing with Set-Cookie, no HTML (the login page
on a path that lost its route), no heuristic freshness, nothing for a request with Authorization. An answer
that mirrors the Origin is kept for that Origin alone even if it does not say Vary.

Everything is linear in the bytes of the heads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from email.utils import mktime_tz, parsedate_tz
from typing import TYPE_CHECKING, TypeAlias

from proxy.message import NO_BODY, Framing, FramingKind, ResponseHead, field_values, first_value
from proxy.rules.forwarded import OWS
from proxy.rules.forwarding import Kind, classify_request_name, classify_response_name, connection_options

if TYPE_CHECKING:
    from proxy.config.schema import CacheConfig
    from proxy.message import Field, Fields
    from proxy.rules.forwarding import ForwardingTable

PREFIXES = (b"/static/", b"/array/")
"""Paths whose answers may be kept."""

LONGEST_TARGET = 1024
"""Bytes of a target; a longer one is not for the cache."""

MOST_VARY = 8
"""Names in Vary; more make an answer nobody else's."""

STALE_STATUSES = frozenset({500, 502, 503, 504})
"""An answer that failed (RFC 5861 section 4): a stale one is better."""

PASS_SECONDS = 60.0
"""How long it is remembered that the answer to a URL cannot be kept."""

BASE_NAMES = (b"accept-encoding",)
"""What every answer varies by."""

_LONGEST = 2**31
"""Seconds: what does not fit is this (RFC 9111 section 1.2.2)."""
_LONGEST_DIGITS = 18
_CONFIG = re.compile(rb"/array/[^/?]++/config(?:\.js)?+(?:\?.*+)?", re.DOTALL)
_MOBILE = re.compile(rb"(?i)posthog-(android|ios|react-native|flutter)/")
_BYPASSING = frozenset(
    {b"authorization", b"range", b"if-range", b"if-match", b"if-unmodified-since", b"proxy-authorization"}
)
_DIRECTIVE = re.compile(
    rb"([A-Za-z0-9!#$%&'*+.^_`|~-]++)[ \t]*+(?:=[ \t]*+(\"(?:[^\"\\]|\\.)*+\"|[^ \t,\"]++))?+"
)
_ETAG = re.compile(rb'(?:W/)?("[^"]*+")')
_DIGITS = re.compile(rb"[0-9]++")
_REVALIDATED = frozenset({b"must-revalidate", b"proxy-revalidate", b"no-cache", b"s-maxage"})
_ABSENT = b"\0"
"""Stands for a header that was not sent: no value can be this."""
_UNKEYED = frozenset({b"via"})
_CONDITIONS = frozenset({b"if-none-match", b"if-modified-since"})
_NOT_UPDATED = frozenset({b"content-length", b"content-encoding", b"content-type", b"content-range", b"age"})

Key: TypeAlias = tuple[str, bytes, bytes, bytes, bool]
"""Upstream, Host sent there, target, User-Agent class, whether an Origin was sent."""

Values: TypeAlias = tuple[bytes, ...]
"""What a request says under the names of a Vary."""


@dataclass(frozen=True, slots=True)
class Asking:
    """A request that may be answered from the cache. ``fields``: its lines as they go upstream; ``keep``: the
    answer may be kept (GET; a HEAD is only answered); ``insists``: it wants the upstream to be asked."""

    key: Key
    fields: Fields
    keep: bool
    insists: bool


def asking(method: bytes, target: bytes, upstream: str, host: bytes, fields: Fields) -> Asking | None:
    """Read a request without a body; ``None``: the cache has nothing to do with it.

    ``target``, ``host`` and ``fields`` are what goes upstream: what a client can hide from there (by naming
    it in Connection) must not decide about what others get.
    """
    if method not in (b"GET", b"HEAD") or not target.startswith(PREFIXES) or len(target) > LONGEST_TARGET:
        return None
    said: dict[bytes, bytes] = {}
    for name, value in fields:
        lower = name.lower()
        if lower in _BYPASSING:
            return None
        said.setdefault(lower, value)
    directives = cache_directives(fields)
    if b"no-store" in directives:
        return None
    insists = (
        b"no-cache" in directives
        or _seconds(directives.get(b"max-age")) == 0
        or (not directives and said.get(b"pragma", b"").lower() == b"no-cache")
    )
    agent = agent_class(target, said.get(b"user-agent", b""))
    return Asking(
        (upstream, host, target, agent, b"origin" in said), fields, keep=method == b"GET", insists=insists
    )


def agent_class(target: bytes, user_agent: bytes) -> bytes:
    """Return the class of a User-Agent on `/array/<token>/config` and `config.js`, where PostHog answers
    mobile SDKs differently without saying so in Vary: `android`, `ios`, `react-native` and `flutter` for the
    SDK of that name (`posthog-ios/3.2`), else, and everywhere else, ``b""``."""
    if _CONFIG.fullmatch(target) is None:
        return b""
    mobile = _MOBILE.match(user_agent)
    return b"" if mobile is None else mobile[1].lower()


def values_of(fields: Fields, names: tuple[bytes, ...]) -> Values:
    """Return what a request says under each name, lines of the same name joined (RFC 9111 section 4.1);
    Accept-Encoding in lower case and without white space, which mean nothing there."""
    found: dict[bytes, list[bytes]] = {name: [] for name in names}
    for name, value in fields:
        lower = name.lower()
        if lower in found:
            found[lower].append(value)
    return tuple(
        _ABSENT
        if not found[name]
        else b",".join(found[name]).replace(b" ", b"").replace(b"\t", b"").lower()
        if name == b"accept-encoding"
        else b"\0".join(found[name])
        for name in names
    )


def cache_directives(fields: Fields) -> dict[bytes, bytes]:
    """Return the directives of Cache-Control, names in lower case, the first of each (RFC 9111 section
    4.2.1); one without a value has ``b""``."""
    directives: dict[bytes, bytes] = {}
    for value in field_values(fields, b"cache-control"):
        for name, argument in _DIRECTIVE.findall(value):
            directives.setdefault(name.lower(), argument.strip(b'"'))
    return directives


def _seconds(value: bytes | None) -> int | None:
    """Delta-seconds (RFC 9111 section 1.2.2): what is no number is 0, so that it is stale at once."""
    if value is None:
        return None
    if _DIGITS.fullmatch(value) is None:
        return 0
    return min(int(value), _LONGEST) if len(value) <= _LONGEST_DIGITS else _LONGEST


def _time(value: bytes | None) -> float | None:
    """An HTTP date as seconds since the epoch."""
    if value is None:
        return None
    try:
        parsed = parsedate_tz(value.decode("ascii"))
        return None if parsed is None else float(mktime_tz(parsed))
    except (ValueError, OverflowError):
        return None


# --- may it be kept ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms an answer is kept, in seconds: ``lifetime`` from its origin, of which ``age`` had passed
    when it arrived, and for how long after that it may stand in for a failing upstream. ``names``: the
    request headers that it varies by, in lower case, Accept-Encoding first."""

    lifetime: float
    age: float
    stale: float
    names: tuple[bytes, ...]


def terms_of(
    answer: ResponseHead, wall: float, delay: float, config: CacheConfig, table: ForwardingTable
) -> Terms | str:
    """Return the terms of an answer to a GET, or the word for why it cannot be kept.

    ``wall``: when its head came, in seconds since the epoch; ``delay``: seconds since the request was sent.
    The words: `status`, `framing`, `set_cookie`, `html`, `no_store`, `private`, `vary`, `too_large`,
    `no_freshness` (neither a lifetime nor a validator).
    """
    fields, directives = answer.fields, cache_directives(answer.fields)
    names = _names(fields, table)
    if answer.status != 200:
        return "status"
    if answer.framing.kind is FramingKind.UNTIL_CLOSE:
        return "framing"
    if first_value(fields, b"set-cookie") is not None:
        return "set_cookie"
    if is_html(fields):
        return "html"
    if b"no-store" in directives:
        return "no_store"
    if b"private" in directives:
        return "private"
    if names is None:
        return "vary"
    if answer.framing.length > config.max_entry:
        return "too_large"
    age, lifetime = _age(fields, wall, delay), _lifetime(fields, directives, wall)
    if lifetime <= age and not validators(fields):
        return "no_freshness"
    return Terms(lifetime, age, _stale(directives, config.stale), names)


def is_html(fields: Fields) -> bool:
    """Is the body a page rather than a script or data?"""
    kind = (first_value(fields, b"content-type") or b"").partition(b";")[0].strip(OWS).lower()
    return kind in (b"text/html", b"application/xhtml+xml")


def _names(fields: Fields, table: ForwardingTable) -> tuple[bytes, ...] | None:
    """The names that an answer varies by; ``None``: by more than a request shows here. Host is part of the
    key anyway; what we set or take away ourselves cannot be looked up."""
    names = dict.fromkeys(BASE_NAMES)
    for value in field_values(fields, b"vary"):
        for member in value.split(b","):
            name = member.strip(OWS).lower()
            if name == b"*" or name in _UNKEYED:
                return None
            kind = classify_request_name(name, table)
            if name and kind is not Kind.HOST:
                if kind is not Kind.PASS:
                    return None
                names[name] = None
    if first_value(fields, b"access-control-allow-origin") not in (None, b"*"):
        names[b"origin"] = None
    return tuple(names) if len(names) <= MOST_VARY else None


def _age(fields: Fields, wall: float, delay: float) -> float:
    """RFC 9111 section 4.2.3: how old it was on arrival."""
    date = _time(first_value(fields, b"date"))
    apparent = 0.0 if date is None else max(0.0, wall - date)
    return max(apparent, (_seconds(first_value(fields, b"age")) or 0) + delay)


def _lifetime(fields: Fields, directives: dict[bytes, bytes], wall: float) -> float:
    """RFC 9111 section 4.2.1, for a shared cache; nothing said is no lifetime."""
    if b"no-cache" in directives:
        return 0.0
    for name in (b"s-maxage", b"max-age"):
        if name in directives:
            return float(_seconds(directives[name]) or 0)
    expires = first_value(fields, b"expires")
    until = _time(expires)
    if until is None:
        return 0.0
    return max(0.0, until - (_time(first_value(fields, b"date")) or wall))


def _stale(directives: dict[bytes, bytes], limit: float) -> float:
    """Sections 5.2.2.2, 5.2.2.8 and 5.2.2.10 forbid it; RFC 5861 may shorten it."""
    if not _REVALIDATED.isdisjoint(directives):
        return 0.0
    said = _seconds(directives.get(b"stale-if-error"))
    return limit if said is None else min(limit, float(said))


# --- what is kept --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that is kept: ``head`` without what is about one connection, ``arrived`` a moment of the
    monotonic clock."""

    head: ResponseHead
    body: bytes
    terms: Terms
    arrived: float


def kept_head(answer: ResponseHead, date: bytes) -> ResponseHead:
    """Return an answer's head as it is kept: end-to-end lines, Date (``date`` where it has none; RFC 9110
    section 6.6.1), no Age and no length, which are said anew each time."""
    named, _ = connection_options(field_values(answer.fields, b"connection"))
    fields = [
        (name, value)
        for name, value in answer.fields
        if (lower := name.lower()) not in named
        and lower != b"age"
        and classify_response_name(lower) is Kind.PASS
    ]
    if first_value(answer.fields, b"date") is None:
        fields.append((b"Date", date))
    return replace(answer, fields=tuple(fields), framing=NO_BODY, close=False)


def age_of(kept: Kept, now: float) -> int:
    """Return the value of Age (RFC 9111 section 4.2.3), in whole seconds. ``now`` is monotonic."""
    return int(min(kept.terms.age + now - kept.arrived, _LONGEST))


def is_fresh(kept: Kept, now: float) -> bool:
    """May it be given without asking?"""
    return kept.terms.age + now - kept.arrived < kept.terms.lifetime


def may_stand_in(kept: Kept, now: float) -> bool:
    """May it be given when the upstream fails?"""
    terms = kept.terms
    return terms.age + now - kept.arrived < max(terms.lifetime, terms.age) + terms.stale


def answer_from(kept: Kept, now: float, *, not_modified: bool) -> ResponseHead:
    """Return the head of an answer from the cache: the kept lines, Age, and the length; or of a 304, without
    what describes a body (RFC 9110 section 15.4.5)."""
    age: Field = (b"Age", b"%d" % age_of(kept, now))
    if not_modified:
        fields = tuple(field for field in kept.head.fields if not field[0].lower().startswith(b"content-"))
        return ResponseHead(304, b"Not Modified", kept.head.minor, (*fields, age), NO_BODY)
    length = len(kept.body)
    fields = (*kept.head.fields, age, (b"Content-Length", b"%d" % length))
    return replace(kept.head, fields=fields, framing=Framing(FramingKind.LENGTH, length))


# --- conditions ----------------------------------------------------------------------------------


def has_condition(fields: Fields) -> bool:
    """Does the client have an answer already?"""
    return any(name.lower() in _CONDITIONS for name, _ in fields)


def not_modified(asked: Fields, kept: Fields) -> bool:
    """Does the client have this answer already (RFC 9111 section 4.3.2)? If-None-Match counts alone where it
    is there, and compares weakly (RFC 9110 section 13.1.2)."""
    tags = field_values(asked, b"if-none-match")
    if tags:
        tag = _ETAG.fullmatch(first_value(kept, b"etag") or b"")
        wanted = b",".join(tags)
        return wanted.strip(OWS) == b"*" or (tag is not None and tag[1] in _ETAG.findall(wanted))
    since = first_value(asked, b"if-modified-since")
    changed = first_value(kept, b"last-modified")
    if since is None or changed is None:
        return False
    until, at = _time(since), _time(changed)
    return since == changed or (until is not None and at is not None and at <= until)


def validators(fields: Fields) -> Fields:
    """Return the conditions under which the upstream need not send the answer with these lines again."""
    etag, changed = first_value(fields, b"etag"), first_value(fields, b"last-modified")
    conditions: list[Field] = []
    if etag is not None:
        conditions.append((b"If-None-Match", etag))
    if changed is not None:
        conditions.append((b"If-Modified-Since", changed))
    return tuple(conditions)


def conditional(fields: Fields, kept: Fields | None) -> Fields:
    """Return a request's lines with the conditions of what is kept in the place of the client's own: only a
    whole answer can be kept, and a 304 must be about ours."""
    own = () if kept is None else validators(kept)
    return (*(field for field in fields if field[0].lower() not in _CONDITIONS), *own)


def updated(kept: ResponseHead, news: ResponseHead, date: bytes) -> ResponseHead:
    """Return the head that is kept after a 304 (RFC 9111 section 3.2): its lines replace those of the same
    name, but for what describes the body."""
    fresh = tuple(field for field in kept_head(news, date).fields if field[0].lower() not in _NOT_UPDATED)
    replaced = {name.lower() for name, _ in fresh}
    fields = tuple(field for field in kept.fields if field[0].lower() not in replaced)
    return replace(kept, fields=(*fields, *fresh))


def renewed_terms(
    head: ResponseHead,
    news: ResponseHead,
    wall: float,
    delay: float,
    config: CacheConfig,
    table: ForwardingTable,
) -> Terms | str:
    """Return the terms of what is kept under ``head`` after the 304 ``news``; as ``terms_of``."""
    ages = tuple(field for field in news.fields if field[0].lower() == b"age")
    return terms_of(replace(head, fields=(*head.fields, *ages)), wall, delay, config, table)
