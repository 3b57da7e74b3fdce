"""How single values are written: sizes, times, addresses, URLs, networks, names.

Every reader takes text and returns the value, or raises ``NotationError`` with the sentence that tells the
operator what is wrong and what would be right. All are linear in the length of the text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from proxy.config.schema import (
    Alias,
    ListenAddress,
    TcpAddress,
    UnixAddress,
    UpstreamUrl,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.config.schema import IPNetwork

TRUE_WORDS = frozenset({"y", "yes", "t", "true", "on", "1"})
"""What PostHog's ``str_to_bool`` takes as true, in any case."""

FALSE_WORDS = frozenset({"n", "no", "f", "false", "off", "0"})

UNIX_PATH_BYTES = 107
"""``sun_path`` of Linux is 108 bytes with its closing NUL (unix(7))."""

SIZE_UNITS = {"": 1, "b": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3, "tib": 1024**4}
TIME_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_WHOLE = re.compile(r"[0-9]{1,18}")
_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z]{0,3})")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PATH = re.compile(r"/[!-\"$->@-~]*")
_TARGET = re.compile(r"/[!-\"$-~]*")
_REALM = re.compile(r"[ !#-\[\]-~]+")
_ALIAS = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
_FRONT = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_UPSTREAM_NAME = re.compile(r"[a-z0-9]+(?:[_-][a-z0-9]+)*")


class NotationError(ValueError):
    """A value that cannot be used; the text says what would be right."""


def boolean(text: str) -> bool:
    """Read a boolean from an environment variable or a flag, in PostHog's spellings."""
    word = text.strip().lower()
    if word in TRUE_WORDS or word in FALSE_WORDS:
        return word in TRUE_WORDS
    raise NotationError("must be true or false")


def whole(text: str) -> int:
    """Read a whole number from text."""
    if _WHOLE.fullmatch(text.strip()) is None:
        raise NotationError("must be a whole number")
    return int(text)


def fraction(text: str) -> float:
    """Read a plain number from text."""
    return _quantity(text, {"": 1.0}, "must be a number")


def size(text: str) -> int:
    """Read a size in bytes: ``65536``, ``64KiB``, ``1.5MiB``."""
    value = _quantity(text, SIZE_UNITS, "must be a whole number of bytes, or a text such as 64KiB or 20MiB")
    if value != int(value):
        raise NotationError("must be a whole number of bytes")
    return int(value)


def duration(text: str) -> float:
    """Read a time in seconds: ``10``, ``250ms``, ``5m``, ``1h``."""
    return _quantity(text, TIME_UNITS, "must be a number of seconds, or a text such as 250ms, 10s, 5m or 1h")


def _quantity(text: str, units: dict[str, int] | dict[str, float], allowed: str) -> float:
    match = _QUANTITY.fullmatch(text.strip())
    unit = units.get(match[2].lower()) if match is not None else None
    if match is None or unit is None:
        raise NotationError(allowed)
    if unit == TIME_UNITS["ms"]:
        return float(match[1]) / 1000  # exact where a multiplication by 0.001 is not
    number = float(match[1]) if "." in match[1] else int(match[1])
    return number * unit


def host(text: str) -> str:
    """Read an IPv4 address, an IPv6 address (without brackets) or a DNS name; canonical, lower case."""
    lowered = text.lower()
    if ":" in lowered:
        return str(_address(lowered))
    labels = lowered.split(".")
    if labels[-1].isdigit():
        return str(_address(lowered))
    if len(lowered) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise NotationError(
            "must be a host name or an address"
            + ("" if text.isascii() else "; write an international name in its xn-- form")
        )
    return lowered


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if "%" in text:
        raise NotationError("must be an address without a zone")
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise NotationError("must be a valid IPv4 or IPv6 address") from None


def _host_and_port(text: str) -> tuple[str, str | None]:
    """Split ``host[:port]``, the host possibly in brackets."""
    if text.startswith("["):
        inside, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise NotationError("must close the bracket of its IPv6 address: [address]:port")
        if ":" not in inside:
            raise NotationError("must have an IPv6 address in its brackets")
        return host(inside), rest[1:] if rest else None
    if text.count(":") > 1:
        raise NotationError("must have its IPv6 address in brackets: [address]:port")
    name, colon, port = text.partition(":")
    return host(name), port if colon else None


def _port(text: str, lowest: int) -> int:
    if _WHOLE.fullmatch(text) is None or not lowest <= int(text) <= 65535:
        raise NotationError(f"must have a port from {lowest} to 65535")
    return int(text)


def _unix_path(text: str) -> UnixAddress:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or path.startswith("//") or path.endswith("/"):
        raise NotationError("must name a Unix socket by its absolute path, as in unix:/run/posthog.sock")
    if len(path.encode()) > UNIX_PATH_BYTES:
        raise NotationError(f"must be a path of at most {UNIX_PATH_BYTES} bytes (the kernel's limit)")
    return UnixAddress(path)


def listen_address(text: str) -> ListenAddress:
    """Read ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:/path``; port 0 lets the system choose."""
    if text.startswith("unix:"):
        return _unix_path(text)
    bare = text.removeprefix(":")
    if ":" not in bare and (bare != text or text.isdigit()):
        port = bare or "PORT"
        raise NotationError(
            f"must name the host too: 127.0.0.1:{port}, or 0.0.0.0:{port} for every IPv4 address"
        )
    name, port_text = _host_and_port(text)
    if port_text is None:
        raise NotationError("must have a port: HOST:PORT")
    return TcpAddress(name, _port(port_text, lowest=0))


def upstream_url(text: str) -> UpstreamUrl:
    """Read ``http://host[:port]``, ``https://host[:port]`` or ``unix:/path``.

    A path, query, fragment or user name is refused: the request's own target goes upstream as it is.
    """
    if text.startswith("unix:"):
        return UpstreamUrl(_unix_path(text))
    scheme, separator, rest = text.partition("://")
    if scheme.lower() not in ("http", "https") or not separator:
        hint = "" if separator or not text else f", for example http://{text}"
        raise NotationError(f"must begin with http://, https:// or unix:/{hint}")
    authority = rest.removesuffix("/")
    if any(mark in authority for mark in "/?#\\"):
        raise NotationError("must end after the host and port: no path, query or fragment")
    if "@" in authority:
        raise NotationError("must not carry a user name or password")
    if not authority:
        raise NotationError("must name a host")
    name, port_text = _host_and_port(authority)
    tls = scheme.lower() == "https"
    port = _port(port_text, lowest=1) if port_text is not None else 443 if tls else 80
    return UpstreamUrl(TcpAddress(name, port), tls)


def network(text: str) -> IPNetwork:
    """Read an address or a CIDR block. An IPv4-mapped IPv6 block becomes the IPv4 block, because
    client addresses are compared after unmapping."""
    base, slash, prefix = text.partition("/")
    address = _address(base)
    if slash and _WHOLE.fullmatch(prefix) is None:
        raise NotationError("must have its prefix length as a number, as in 10.0.0.0/8")
    length = int(prefix) if slash else address.max_prefixlen
    if length > address.max_prefixlen:
        raise NotationError(f"must have a prefix length of at most {address.max_prefixlen}")
    block = ipaddress.ip_network(f"{address}/{length}", strict=False)
    if block.network_address != address:
        raise NotationError(f"has host bits set: the network is {block}, the single address is {address}")
    mapped = getattr(block.network_address, "ipv4_mapped", None)
    if mapped is not None and length >= 96:
        return ipaddress.IPv4Network((mapped, length - 96))
    return block


def host_pattern(text: str) -> str:
    """Read a pattern as Django's ALLOWED_HOSTS has them: ``*``, ``name``, ``.name``, an address; IPv6 in
    brackets. Ports are not part of a pattern (Django compares without them)."""
    if text == "*":
        return text
    if text.startswith("*."):
        raise NotationError(f"must be written {text[1:]} to mean every host below it")
    if "://" in text:
        raise NotationError("must be a host without http://")
    name, port = _host_and_port(text.removeprefix("."))
    if port is not None:
        raise NotationError("must be a host without a port")
    return ("." if text.startswith(".") else "") + (f"[{name}]" if ":" in name else name)


def header_name(text: str) -> str:
    """Read a header's name (RFC 9110 section 5.1: a token)."""
    if _TOKEN.fullmatch(text) is None:
        raise NotationError("must be a header's name, such as CF-Connecting-IP")
    return text


def odd_header_name(text: str) -> str:
    """Read a header's name that has a `_` or `.` in it: only such names need to be allowed."""
    if "_" not in header_name(text) and "." not in text:
        raise NotationError("has neither `_` nor `.`, so it needs no permission; remove it")
    return text


def url_path(text: str) -> str:
    """Read an absolute URL path: visible ASCII, no query, no fragment."""
    if _PATH.fullmatch(text) is None:
        raise NotationError("must begin with / and be visible ASCII without ? or #")
    return text


def request_target(text: str) -> str:
    """Read a request target in origin-form: a path and possibly a query, visible ASCII, no fragment."""
    if _TARGET.fullmatch(text) is None:
        raise NotationError("must begin with / and be visible ASCII without #")
    return text


def sign_in_page(text: str) -> str:
    """Read where to sign in: a path of the same host, or a whole URL."""
    path = text.removeprefix("https://").removeprefix("http://")
    if path != text:
        path = "/" + path
    if _TARGET.fullmatch(path) is None or path.startswith("//"):
        raise NotationError("must be a path that begins with one /, or a URL, in visible ASCII without #")
    return text


def realm(text: str) -> str:
    """Read the name of a realm: it stands in quotes in a header (RFC 9110 section 11.5)."""
    if _REALM.fullmatch(text) is None:
        raise NotationError('must be ASCII text without " and \\')
    return text


def route_path(text: str) -> str:
    """Read a route's path: exact, or a prefix that ends in its only ``*``."""
    url_path(text)
    if "*" in text[:-1]:
        raise NotationError("must have its * at the end, once")
    return text


def alias_prefix(text: str) -> str:
    """Read the prefix of aliases: whole segments, each plain, no slash at the end."""
    if len(text) > 200 or _ALIAS.fullmatch(text) is None:
        raise NotationError("must be like /k7-mirelo: letters, digits, - _ . ~, and no slash at the end")
    return text


def alias(text: str) -> Alias:
    """Read ``/public-path=/posthog-path``; either may end in a slash."""
    path, equals, target = (part.strip() for part in text.partition("="))
    if not equals:
        raise NotationError("must be written /public-path=/posthog-path")
    for part in (path, target):
        if len(part) > 200 or _ALIAS.fullmatch(part.removesuffix("/")) is None:
            raise NotationError(
                "must have two paths of letters, digits and - _ . ~, as in /lib.js=/static/array.js"
            )
    return Alias(path, target)


def front(text: str) -> str:
    """Read what stands in front: a word (fronts.py knows which), or an address or a CIDR block."""
    return text if _FRONT.fullmatch(text) is not None else str(network(text))


def upstream_name(text: str) -> str:
    """Read an upstream's name; it is part of environment names and of metric labels."""
    if len(text) > 64 or _UPSTREAM_NAME.fullmatch(text) is None:
        raise NotationError("must be lower-case letters and digits, joined by single - or _, at most 64")
    return text


def sink(text: str) -> str:
    """Read where a log goes. A file needs a slash, so that a mistyped word does not become one."""
    if text in ("stdout", "stderr", "off", "journald", "syslog"):
        return text
    if text.startswith("syslog:"):
        if not isinstance(listen_address(text.removeprefix("syslog:")), TcpAddress):
            raise NotationError("must be syslog:HOST:PORT")
        return text
    if "/" not in text or text.endswith("/"):
        raise NotationError(
            "must be stdout, stderr, journald, syslog, syslog:HOST:PORT, off, or a file's path with a / in it"
        )
    return text


def file_path(text: str) -> str:
    """Read the path of a file; whether it is readable is asked later."""
    if not text:
        raise NotationError("must be a file's path")
    return text


def directory(text: str) -> str:
    """Read the path of a directory: with a slash, so that a mistyped word does not become one."""
    if "/" not in text:
        raise NotationError("must be a directory's path with a / in it")
    return text


FORMS: dict[str, tuple[str, Callable[[str], str]]] = {
    "": ("text", str),
    "alias_prefix": ("a path such as `/k7-mirelo`", alias_prefix),
    "directory": ("a directory's path", directory),
    "file": ("a file's path", file_path),
    "front": (
        "`cloudflare`, `aws-alb`, `aws-nlb`, `gcp`, `nginx`, `private`, an address or a CIDR block",
        front,
    ),
    "header": ("a header's name", header_name),
    "odd_header": ("a header's name with `_` or `.`", odd_header_name),
    "host": ("a host name or address", host),
    "host_pattern": ("`*`, `name` or `.name`", host_pattern),
    "path": ("a path that begins with `/`", url_path),
    "realm": ('ASCII text without `"` and `\\`', realm),
    "route": ("a path, possibly with `*` at its end", route_path),
    "sign_in": ("a path that begins with `/`, or a URL", sign_in_page),
    "sink": ("`stdout`, `stderr`, `off` or a file's path", sink),
    "target": ("a path that begins with `/`, possibly with a query", request_target),
    "upstream": ("an upstream's name", upstream_name),
}
"""The ``form`` of a text key: how it is described, and its reader."""


def size_text(value: float) -> str:
    """Write a size as it can be read back: ``64KiB``."""
    for unit, factor in (("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if value >= factor and value % factor == 0:
            return f"{int(value) // factor}{unit}"
    return f"{int(value)}B"


def duration_text(value: float) -> str:
    """Write a time as it can be read back: ``90s``, ``10m``."""
    for unit, factor, least in (("d", 86400, 86400), ("h", 3600, 3600), ("m", 60, 300)):
        if value >= least and value % factor == 0:
            return f"{int(value) // factor}{unit}"
    return f"{value:g}s"


def printable(text: str, limit: int = 200) -> str:
    """Write text on one line: control characters and lone surrogates escaped, at most ``limit`` long."""
    cut = text if len(text) <= limit else text[: limit - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def shown(value: object) -> str:
    """Write a raw value for an error message: one line, bounded, without the password of a URL."""
    if isinstance(value, str):
        start, at = value.find("//"), value.rfind("@")
        safe = value[: start + 2] + "***" + value[at:] if 0 <= start < at else value
        return f'"{printable(safe)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() <= 128:
        return str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return "a table"
    return f"a value of type {type(value).__name__}"
