"""What is to be explained, as bytes: from a request head, a curl command or a line of the access log."""

from __future__ import annotations

import base64
import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator


class AskingError(Exception):
    """What was given cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request as it comes in. ``tls``: it is asked for by https; ``None``: not said. ``peer``: who sent it,
    empty where that is not said. ``left_out`` says what the source does not hold."""

    raw: bytes
    tls: bool | None = None
    peer: str = ""
    left_out: str = ""


def from_head(data: bytes, *, exact: bool = False) -> Question:
    """Read a request head, perhaps with its body. A text file's bare LF become CRLF and the blank line at the
    end may be missing, unless ``exact`` bytes are meant. A line of the access log is recognised."""
    if data.lstrip()[:1] == b"{":
        return from_log(data.decode("utf-8", "replace"))
    if exact:
        return Question(data)
    head, blank, body = data.replace(b"\r\n", b"\n").partition(b"\n\n")
    if not blank:
        head = head.rstrip(b"\n")
    elif b"\r\n\r\n" in data:
        body = data.partition(b"\r\n\r\n")[2]
    return Question(head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body)


_NO_ARGUMENT = frozenset(
    {"-s", "-S", "-sS", "-v", "-i", "-k", "-L", "-f", "-g", "-4", "-6", "-N", "-#", "-q", "--silent"}
    | {"--verbose", "--include", "--insecure", "--location", "--fail", "--compressed", "--http1.1"}
    | {"--globoff", "--no-buffer", "--show-error"}
)
_IGNORED = frozenset(
    {"-o", "--output", "-m", "--max-time", "--connect-timeout", "-w", "--write-out", "--cacert", "--resolve"}
)
_BODIES = frozenset({"-d", "--data", "--data-raw", "--data-binary", "--data-ascii"})
_SHORT = frozenset({"-X", "-H", "-d", "-A", "-e", "-b", "-u", "-o", "-m"})
"""Those whose value may follow without a blank."""
_FIELDS = {"-A": "User-Agent", "--user-agent": "User-Agent", "-e": "Referer", "--referer": "Referer"}
_FIELDS |= {"-b": "Cookie", "--cookie": "Cookie"}


def from_curl(command: str) -> Question:
    """Read `curl ...` as a shell has it (as browsers copy it) into the request that curl would send.

    Raises:
        AskingError: a flag that changes the request in a way that is not known here, or no URL.
    """
    try:
        words = shlex.split(command.replace("\\\n", " "))
    except ValueError as error:
        raise AskingError(f"not a command line: {error}") from None
    asked = _Curl()
    left = iter(words[1:] if words[:1] == ["curl"] else words)
    for word in left:
        asked.take(word, left)
    return asked.question()


_ORDER = ("Host", "Authorization", "User-Agent", "Accept", "Referer", "Cookie")
"""In which curl writes its own lines, before those of `-H`; Content-Length and Content-Type are last."""


class _Curl:
    """The words of a curl command, taken one by one."""

    def __init__(self) -> None:
        self.method = ""
        self.url = ""
        self.body: bytes | None = None
        self.said = {"User-Agent": "curl", "Accept": "*/*"}
        self.lines: list[tuple[str, str]] = []
        self.minor = 1

    def take(self, word: str, left: Iterator[str]) -> None:
        flag, value = word, None
        if word.startswith("--") and "=" in word:
            flag, _, value = word.partition("=")
        elif word.startswith("-") and not word.startswith("--") and len(word) > 2 and word[:2] in _SHORT:
            flag, value = word[:2], word[2:]
        if flag in _NO_ARGUMENT:
            return
        if flag in ("-I", "--head"):
            self.method = self.method or "HEAD"
        elif flag in ("-0", "--http1.0"):
            self.minor = 0
        elif not flag.startswith("-"):
            self.url = flag
        else:
            if value is None and (value := next(left, None)) is None:
                raise AskingError(f"curl: {flag} needs a value")
            self._take_with(flag, value)

    def _take_with(self, flag: str, value: str) -> None:
        if flag in _IGNORED:
            return
        if flag in ("-X", "--request"):
            self.method = value
        elif flag in ("-H", "--header"):
            name, _, text = value.partition(":")
            if name.lower() == "host":
                self.said["Host"] = text.strip()
            else:
                self.lines.append((name, text.strip()))
        elif flag in _FIELDS:
            self.said[_FIELDS[flag]] = value
        elif flag in _BODIES:
            self.body = (self.body + b"&" if self.body is not None else b"") + value.encode()
        elif flag in ("-u", "--user"):
            self.said["Authorization"] = f"Basic {_base64(value)}"
        elif flag == "--url":
            self.url = value
        else:
            raise AskingError(f"curl: {flag} is not understood here; give the request head instead")

    def question(self) -> Question:
        if not self.url:
            raise AskingError("curl: there is no URL")
        url = urlsplit(self.url if "://" in self.url else f"http://{self.url}")
        if url.scheme not in ("http", "https"):
            raise AskingError(f"curl: {url.scheme} is not http")
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        method = self.method or ("GET" if self.body is None else "POST")
        given = {name.lower() for name, _ in self.lines}
        said = {"Host": url.netloc.rpartition("@")[2], **self.said}
        lines = [(name, said[name]) for name in _ORDER if name in said and name.lower() not in given]
        lines += [(name, value) for name, value in self.lines if value]
        if self.body is not None:
            lines.append(("Content-Length", str(len(self.body))))
            if "content-type" not in given:
                lines.append(("Content-Type", "application/x-www-form-urlencoded"))
        return Question(_head(method, target, self.minor, lines) + (self.body or b""), url.scheme == "https")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")


def _head(method: str, target: str, minor: int, lines: list[tuple[str, str]]) -> bytes:
    head = f"{method} {target} HTTP/1.{minor}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines)
    return head.encode("utf-8", "surrogateescape") + b"\r\n"


def from_log(line: str) -> Question:
    """Read a line of the access log (JSON). The log keeps no query and none of the other header lines; the
    client's address is given back as what the peer said, where that is how it was found.

    Raises:
        AskingError: it is no such line.
    """
    try:
        said = json.loads(line)
        method, path, host = said["method"], said["path"], said["host"]
    except (ValueError, KeyError, TypeError):
        raise AskingError("this is no line of the access log (log.format json)") from None
    lines = [("Host", host)] if host else []
    if agent := said.get("user_agent"):
        lines.append(("User-Agent", agent))
    if said.get("client_ip_source") == "x_forwarded_for":
        lines.append(("X-Forwarded-For", said.get("client_ip", "")))
    return Question(
        _head(method, path, 1, lines),
        bool(said["tls_version"]) if "tls_version" in said else None,
        said.get("peer", ""),
        "the log keeps neither the query nor the other header lines, so they are missing here; the chain of "
        "X-Forwarded-For is only the address that was found in it",
    )
