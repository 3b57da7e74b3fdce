"""What stands in front: the public name, asked from outside as browsers do (`--through`)."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy.doctor.asking import ProbeError, Where, ask, connect, described
from proxy.doctor.findings import Finding, error, ok
from proxy.doctor.reach import ending
from proxy.doctor.services import cors, seen

if TYPE_CHECKING:
    from proxy.doctor.asking import Reply

SIZES = ((2_000_000, "/e/"), (20_000_000, "/s/"))
"""Bytes that are sent: nginx takes 1 MiB unless told otherwise, and PostHog 25 MiB of a recording."""

PATIENCE = 1.0
"""Seconds that a body waits for `100 Continue` (curl's time)."""

UPLOAD_TIME = 6.0
"""How many times longer than any other question an upload may take."""


async def through(url: str, wall: float, *, origin: str, ca_file: str, timeout: float) -> list[Finding]:
    """Ask at the public ``url``; ``wall``: seconds since the epoch. The bodies are JSON that holds no event:
    nothing is kept of them.

    Raises:
        ValueError: it is no http or https URL, or the authority cannot be read.
    """
    where, host = place(url, ca_file)
    opened, found = await _door(where, host, wall, timeout)
    if not opened:
        return found
    for size, path in SIZES:
        found.append(await _upload(where, host, path, size, timeout * UPLOAD_TIME))
    try:
        if origin:
            lines = f"Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n"
            head = _head("OPTIONS", "/e/", host, f"{lines}Access-Control-Request-Headers: content-type\r\n")
            found.append(cors(host, origin, await ask(where, head, timeout=timeout)))
        echo = seen(host, await ask(where, _head("GET", "/__standin__/echo", host), timeout=timeout), "")
        found += [] if echo is None else [echo]
    except ProbeError as problem:
        found.append(error("no_answer", host, str(problem), "look at what answers at this name"))
    return found


async def _door(where: Where, host: str, wall: float, timeout: float) -> tuple[bool, list[Finding]]:
    """Can browsers connect at all?"""
    try:
        async with asyncio.timeout(timeout):
            _, writer = await connect(where)
    except TimeoutError:
        text = f"{where} does not let connect within {timeout:g} s"
        return False, [error("no_answer", host, text, "open the firewall for it, or correct its DNS entry")]
    except ssl.SSLError as problem:
        cure = "show a certificate of this name there, with its intermediates (here: tls.certificate)"
        return False, [error("tls", host, f"{where}: {described(problem)}", cure)]
    except OSError as problem:
        cure = "start what listens there, or correct its DNS entry"
        return False, [error("no_answer", host, f"{where}: {described(problem)}", cure)]
    certificate = writer.get_extra_info("peercert")
    writer.transport.abort()
    return True, ending(host, where, str(certificate["notAfter"]), wall) if certificate else []


def place(url: str, ca_file: str = "") -> tuple[Where, str]:
    """Return where a public URL leads, and its Host."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url}: must be http://NAME or https://NAME")
    tls = None
    if parts.scheme == "https":
        try:
            tls = ssl.create_default_context(cafile=ca_file or None)
        except OSError as problem:
            raise ValueError(f"{ca_file}: {problem.strerror or problem}") from None
    port = parts.port or (443 if tls else 80)
    return Where((parts.hostname, port), tls, parts.hostname), parts.netloc


def _head(method: str, path: str, host: str, lines: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}Connection: close\r\n\r\n".encode()


async def _upload(where: Where, host: str, path: str, size: int, timeout: float) -> Finding:
    lines = f"Content-Type: application/json\r\nContent-Length: {size}\r\nExpect: 100-continue\r\n"
    shown = f"a body of {size // 1_000_000} MB to {path}"
    try:
        head, body = _head("POST", path, host, lines), b"{}".ljust(size)
        reply = await ask(where, head, body, timeout=timeout, patience=PATIENCE)
    except ProbeError as problem:
        cure = "raise the body limit of what stands in front (nginx: client_max_body_size 64m)"
        return error("body_cap", host, f"{shown}: {problem}", cure)
    if reply.status == 413:
        if _is_ours(reply):
            cure = "raise limits.body_ingest and limits.body_replay of this proxy"
        else:
            cure = f"raise the body limit of {reply.get('server') or 'what stands in front'} (nginx: "
            cure += "client_max_body_size 64m): recordings and batches are lost"
        return error("body_cap", host, f"{shown} is refused with 413", cure)
    if reply.status >= 500:
        text = f"{shown} answers {reply.status}"
        return error("body_cap", host, text, "look at what stands in front, and at its time-outs")
    return ok("body_cap", host, f"{shown} passes (answered {reply.status})")


def _is_ours(reply: Reply) -> bool:
    try:
        said = json.loads(reply.body)
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("type") == "proxy_error"
