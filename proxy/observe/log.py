"""Log lines: one request or one event as one line of bytes, and the batches in which they are written.

Whatever a client sent is escaped, cut to a bound and rid of tokens here, at the one place that all
lines pass: no caller can forget it. A line is printable ASCII and one newline.

Tokens are write keys and access keys of PostHog: whatever looks like one (``phc_...``), the path segment
where one stands (``/array/<token>/config``, ``/shared/<token>``), parameters named like one. The query is
left out whole; only the SDK's name and version are taken from it.
"""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote_to_bytes

from proxy.config.schema import LogFormat, LogLevel
from proxy.errors import Source
from proxy.observe.cures import CURES

if TYPE_CHECKING:
    from proxy.errors import Failure

MAX_TEXT = 2048
"""Bytes of one value that a line of the access log shows; a longer one ends in `...`."""

MAX_EVENT_TEXT = 8192
"""The same for the error log, which holds tracebacks."""

# --- tokens ---------------------------------------------------------------------------------------

_TOKEN = re.compile(rb"(ph[a-z]_)[A-Za-z0-9]{12,}|(?<![A-Za-z])(ph[a-z]_)[A-Za-z0-9_-]+")
"""PostHog's keys: phc_ (project), phx_ (personal), phs_ (secret) and their kin; as part of a longer word
only when it is as long as a real one."""

_NAMED_TOKEN = re.compile(rb"(?i)((?:api_key|apikey|token|secret|password)=)[^\s&;\"'/]+")

_SECRET_SEGMENT = {
    b"array": 1,
    b"shared": 1,
    b"shared_dashboard": 1,
    b"embedded": 1,
    b"exporter": 1,
    b"messaging-preferences": 1,
    b"signup": 1,
    b"site_app": 2,
    b"reset": 2,
    b"verify_email": 2,
}
"""By the first segment of a path: which of those after it is a secret (posthog/urls.py)."""

_SEPARATOR = re.compile(rb"(?i)(/|\\|%2f|%5c)")
_QUERY = re.compile(rb"(?i)\?|%3f")
_ODD = re.compile(rb"[%;=\\]|//")


def masked(text: bytes) -> bytes:
    """Return ``text`` without what looks like a token. Linear."""
    if b"ph" in text:
        text = _TOKEN.sub(lambda match: (match[1] or match[2]) + b"***", text)
    return _NAMED_TOKEN.sub(rb"\1***", text) if b"=" in text else text


def logged_path(target: bytes) -> bytes:
    """Return the path of a request target as it was received, but for query and tokens.

    Slashes that are hidden by an escape count too, so that a path which is refused for being ambiguous
    does not bring its token into the log either.
    """
    path = _QUERY.split(target, 1)[0]
    if _tokenless(path):
        return path
    if len(path) > MAX_TEXT:
        path = path[:MAX_TEXT] + b"..."
    parts = _SEPARATOR.split(path)
    seen = 0
    secret = 0
    for index in range(0, len(parts), 2):
        segment, parameters, _ = parts[index].partition(b";")
        plain = unquote_to_bytes(segment)
        if not plain:
            continue
        if seen == 0:
            secret = _SECRET_SEGMENT.get(plain, 0)
        if (seen == secret and seen) or masked(plain) != plain:
            prefix = plain[:4] if _TOKEN.match(plain) else b""
            parts[index] = prefix + b"***"
        elif parameters:
            parts[index] = segment + b";***"
        seen += 1
    return b"".join(parts)


def _tokenless(path: bytes) -> bool:
    """A quick look, right for nearly all paths: is there surely nothing to mask?"""
    return (
        path.startswith(b"/")
        and len(path) <= MAX_TEXT
        and b"ph" not in path
        and _ODD.search(path) is None
        and path[1:].partition(b"/")[0] not in _SECRET_SEGMENT
    )


_USER_AGENT_SDK = re.compile(rb"(posthog[A-Za-z.-]{0,32})/([0-9][0-9A-Za-z.+-]{0,31})")
_SDK_PARAMETER = re.compile(rb"[?&](lib|ver)=([A-Za-z0-9.+-]{1,32})(?=&|\Z)")
BROWSER_SDK = "posthog-js"


def sdk_of(target: bytes, user_agent: bytes) -> tuple[str, str]:
    """Return name and version of the SDK that sent a request, each ``""`` where unknown.

    Servers and phones name themselves in User-Agent (``posthog-python/7.91.1``); a browser cannot, so
    posthog-js sends ``ver`` in the query, and some send ``lib``.
    """
    agent = _USER_AGENT_SDK.match(user_agent)
    if agent is not None:
        return agent[1].decode(), agent[2].decode()
    said = dict(_SDK_PARAMETER.findall(target))
    version = said.get(b"ver", b"")
    return said.get(b"lib", BROWSER_SDK.encode() if version else b"").decode(), version.decode()


# --- how an exchange ended ------------------------------------------------------------------------


class Cause(Enum):
    """First letter of ``termination``: who ended the exchange, and why (HAProxy's, where it has one)."""

    NORMAL = "-"
    CLIENT_LEFT = "C"
    CLIENT_LATE = "c"
    UPSTREAM_FAILED = "S"
    UPSTREAM_LATE = "s"
    REFUSED = "P"
    RESOURCES = "R"
    INTERNAL = "I"


class Phase(Enum):
    """Second letter: how far it had come."""

    DONE = "-"
    HEAD = "R"
    BODY = "B"
    QUEUE = "Q"
    CONNECT = "C"
    ANSWER_HEAD = "H"
    ANSWER = "D"
    TUNNEL = "T"


def termination(cause: Cause, phase: Phase) -> str:
    """Return the two letters; ``--`` is an exchange that ended well."""
    return cause.value + phase.value


def cause_of(failure: Failure) -> Cause:
    """Return who is to blame for a failure, for the log."""
    if failure.source is Source.DOWNSTREAM:
        if failure.status == 408:
            return Cause.CLIENT_LATE
        return Cause.CLIENT_LEFT if failure.status == 499 else Cause.REFUSED
    if failure.source is Source.UPSTREAM:
        return Cause.UPSTREAM_LATE if failure.status == 504 else Cause.UPSTREAM_FAILED
    return Cause.INTERNAL if failure.status == 500 else Cause.RESOURCES


# --- the access log -------------------------------------------------------------------------------


@dataclass(slots=True)
class AccessRecord:
    """One request as the access log tells it, filled in as it goes.

    ``ts`` is the arrival in seconds since the epoch; every ``t_*`` a duration in seconds, ``None``
    where that step was never reached. ``method``, ``host``, ``target`` and ``user_agent`` are as
    received (the line shows ``path`` instead of the target). ``status`` is what the client was sent, 0
    if nothing; ``upstream_status`` what the upstream said, 0 if nothing. ``origin`` says who made the
    answer: ``upstream``, ``proxy`` or ``cache``. Bytes count bodies and heads on the client's side.
    """

    ts: float = 0.0
    request_id: str = ""
    listener: str = ""
    client_ip: str = ""
    peer: str = ""
    client_ip_source: str = ""
    trusted_hops: int = 0
    method: bytes = b""
    host: bytes = b""
    target: bytes = b""
    route: str = ""
    cls: str = ""
    upstream: str = ""
    upstream_addr: str = ""
    status: int = 0
    upstream_status: int = 0
    origin: str = "proxy"
    bytes_in: int = 0
    bytes_out: int = 0
    t_head: float | None = None
    t_body: float | None = None
    t_queue: float | None = None
    t_connect: float | None = None
    t_first_byte: float | None = None
    t_total: float | None = None
    retries: int = 0
    reused: bool = False
    tls_version: str = ""
    sni: str = ""
    user_agent: bytes = b""
    termination: str = "--"
    error: str = ""


def encode_json(record: AccessRecord) -> bytes:
    """Return the record as one JSON object and a newline."""
    sdk, sdk_version = sdk_of(record.target, record.user_agent)
    line = (
        f'{{"ts":{_number(record.ts)}'
        f',"request_id":{json_text(record.request_id)}'
        f',"listener":{_known_json(record.listener)}'
        f',"client_ip":{_known_json(record.client_ip)}'
        f',"peer":{_known_json(record.peer)}'
        f',"client_ip_source":{_known_json(record.client_ip_source)}'
        f',"trusted_hops":{record.trusted_hops}'
        f',"method":{_known_json(record.method)}'
        f',"host":{_known_json(record.host)}'
        f',"path":{json_text(logged_path(record.target))}'
        f',"route":{_known_json(record.route)}'
        f',"class":{_known_json(record.cls)}'
        f',"upstream":{_known_json(record.upstream)}'
        f',"upstream_addr":{_known_json(record.upstream_addr)}'
        f',"status":{record.status}'
        f',"upstream_status":{record.upstream_status}'
        f',"origin":{_known_json(record.origin)}'
        f',"bytes_in":{record.bytes_in}'
        f',"bytes_out":{record.bytes_out}'
        f',"t_head":{_number(record.t_head)}'
        f',"t_body":{_number(record.t_body)}'
        f',"t_queue":{_number(record.t_queue)}'
        f',"t_connect":{_number(record.t_connect)}'
        f',"t_first_byte":{_number(record.t_first_byte)}'
        f',"t_total":{_number(record.t_total)}'
        f',"retries":{record.retries}'
        f',"reused":{"true" if record.reused else "false"}'
        f',"tls_version":{_known_json(record.tls_version)}'
        f',"sni":{_known_json(record.sni)}'
        f',"user_agent":{_known_json(record.user_agent)}'
        f',"sdk":{_known_json(sdk)}'
        f',"sdk_version":{_known_json(sdk_version)}'
        f',"termination":{_known_json(record.termination)}'
        f',"error":{json_text(record.error)}}}\n'
    )
    return line.encode("ascii")


def encode_text(record: AccessRecord) -> bytes:
    """Return what a human wants to know of the record, as one line: time, client, method, host and
    path, status and who made it, duration, bytes in and out, route, upstream, termination, sender, error.

    Example: ``2026-11-25T08:15:02.125Z 203.0.113.7 POST app.example.com/e/ 200 upstream 0.013s 1204>15
    /e default -- posthog-js/1.449.0``
    """
    sdk, version = sdk_of(record.target, record.user_agent)
    words = [
        _timestamp(record.ts),
        _word(record.client_ip or "unix"),
        _word(record.method),
        _word(record.host + logged_path(record.target)),
        str(record.status),
        record.origin,
        "-" if record.t_total is None else f"{record.t_total:.3f}s",
        f"{record.bytes_in}>{record.bytes_out}",
        _word(record.route),
        _word(record.upstream),
        record.termination,
        f"{sdk}/{version}" if sdk else _quoted(record.user_agent),
    ]
    if record.error:
        words.append(_quoted(record.error))
    return _text_line(words)


# --- the error log --------------------------------------------------------------------------------


def is_kept(level: LogLevel, least: LogLevel) -> bool:
    """Return whether an error log that begins at ``least`` keeps a line of ``level``."""
    return _SEVERITY[level] >= _SEVERITY[least]


_SEVERITY = {level: rank for rank, level in enumerate(LogLevel)}


def error_line(
    level: LogLevel, event: str, wall: float, form: LogFormat = LogFormat.JSON, /, **fields: object
) -> bytes:
    """Return one line of the error log: ``event`` is its machine word, ``wall`` seconds since the
    epoch. Values that are neither text, number nor truth value are shown as text. Warnings and errors end in
    their ``cure`` (cures.py), unless they have one of their own."""
    if "cure" not in fields and event in CURES and is_kept(level, LogLevel.WARNING):
        fields["cure"] = CURES[event]
    if form is LogFormat.TEXT:
        words = [_timestamp(wall), level.value.upper(), _word(event)]
        words += [f"{_word(name)}={_quoted(value, MAX_EVENT_TEXT)}" for name, value in fields.items()]
        return _text_line(words)
    said = {"ts": wall, "level": level.value, "event": event, **fields}
    pairs = ",".join(f"{json_text(name)}:{_value(value)}" for name, value in said.items())
    return f"{{{pairs}}}\n".encode("ascii")


def _text_line(words: list[str]) -> bytes:
    return " ".join(words).encode("ascii") + b"\n"


# --- values ---------------------------------------------------------------------------------------


def _value(value: object) -> str:
    """Any value as JSON."""
    if value is None or isinstance(value, float):
        return _number(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else json_text(value, MAX_EVENT_TEXT)


def _number(value: float | None) -> str:
    """Seconds as JSON, to the microsecond; ``null`` for what is no number."""
    return "null" if value is None or not math.isfinite(value) else repr(round(value, 6))


def json_text(value: object, limit: int = MAX_TEXT) -> str:
    """Text as JSON, in printable ASCII."""
    return encode_basestring_ascii(_text(value, limit)) if value else '""'


def _known_json(value: str | bytes) -> str:
    """The same for what many requests have in common."""
    return _remembered_json(value) if len(value) <= _REMEMBERED_TEXT else json_text(value)


_REMEMBERED_TEXT = 256
_remembered_json = functools.lru_cache(4096)(json_text)  # a few MiB at most


def _text(value: object, limit: int) -> str:
    """Text from outside: tokens masked, cut to ``limit`` bytes, bytes that are no UTF-8 escaped."""
    if isinstance(value, str) and len(value) <= limit // 4 and "ph" not in value and "=" not in value:
        return value
    raw = masked(value if isinstance(value, bytes) else str(value).encode("utf-8", "replace"))
    if len(raw) > limit:
        raw = raw[:limit] + b"..."
    return raw.decode("utf-8", "backslashreplace")


def _word(value: object) -> str:
    """Text as one word without blanks; ``-`` if empty."""
    return _escaped(_text(value, MAX_TEXT)).replace(" ", r"\x20") or "-"


def _quoted(value: object, limit: int = MAX_TEXT) -> str:
    return '"' + _escaped(_text(value, limit)).replace('"', r"\"") + '"'


def _escaped(text: str) -> str:
    """Text as printable ASCII: everything else, and the backslash, as Python writes it."""
    return text.encode("unicode_escape").decode("ascii")


def _timestamp(wall: float) -> str:
    """ISO 8601 in UTC with milliseconds."""
    milliseconds = int(wall * 1000)
    moment = time.gmtime(milliseconds // 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", moment) + f".{milliseconds % 1000:03d}Z"


# --- writing --------------------------------------------------------------------------------------

Sink: TypeAlias = Callable[[bytes], None]
"""Takes whole lines; raises ``OSError`` if it could not write all of them."""


FLUSH_BYTES = 128 * 1024
"""A batch of this size does not wait for the next flush."""


class BatchedLog:
    """Collects lines and hands them to ``sink`` in one call per flush.

    Memory: ``max_bytes`` of waiting lines; what does not fit is dropped and counted, and a line in the
    next batch says how many. A sink that fails loses its batch, which is counted too: a full disk
    or a reader that is gone must not stop the proxy.
    """

    def __init__(self, sink: Sink, *, max_bytes: int = 1024 * 1024, form: LogFormat = LogFormat.JSON) -> None:
        self._sink = sink
        self._max_bytes = max_bytes
        self._form = form
        self._lines: list[bytes] = []
        self._overflow = 0
        self.pending = 0
        """Bytes waiting."""
        self.dropped = 0
        """Lines dropped so far because the buffer was full."""
        self.lost = 0
        """Lines lost so far because the sink failed."""

    def __repr__(self) -> str:
        return f"<BatchedLog pending={self.pending} dropped={self.dropped} lost={self.lost}>"

    def write(self, line: bytes) -> None:
        """Add one finished line."""
        if self.pending + len(line) > self._max_bytes:
            self._overflow += 1
            self.dropped += 1
            return
        self._lines.append(line)
        self.pending += len(line)
        if self.pending >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand everything that waits to the sink."""
        lines = self._lines
        if self._overflow:
            lines.append(_overflow_line(self._overflow, self._form))
        if not lines:
            return
        self._lines, self._overflow, self.pending = [], 0, 0
        try:
            self._sink(b"".join(lines))
        except OSError:
            self.lost += len(lines)


def _overflow_line(count: int, form: LogFormat) -> bytes:
    if form is LogFormat.JSON:
        return b'{"level":"warning","event":"log_lines_dropped","count":%d}\n' % count
    return b'WARNING log_lines_dropped count="%d"\n' % count
