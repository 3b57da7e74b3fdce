"""What is answered behind the proxies: one table, from which both origins are made.

Sizes are those of PostHog: a capture service's word of thanks, some KB of flags, a page of the app,
`array.js`, an export. Heads carry what PostHog's do: CORS lines, Vary, cookies and policies of the app, cache
lines of files.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

ORIGIN = "https://www.shop-1.example"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to every request whose path begins with ``prefix``; ``file`` is the name its body is kept
    under."""

    prefix: str
    file: str
    content_type: str
    fields: tuple[tuple[str, str], ...]
    body: bytes


_CORS = (
    ("vary", "origin, access-control-request-method, access-control-request-headers"),
    ("access-control-allow-origin", ORIGIN),
    ("access-control-allow-credentials", "true"),
)
_APP = (
    ("Vary", "Accept-Language, Cookie"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    (
        "Content-Security-Policy-Report-Only",
        "default-src 'self'; script-src 'self' 'unsafe-eval'; report-uri /report/",
    ),
    ("Set-Cookie", "csrftoken=q1w2e3r4t5y6u7i8o9p0; Max-Age=31449600; Path=/; SameSite=Lax"),
)
_FILE = (
    ("cache-control", "public, max-age=300"),
    ("access-control-allow-origin", "*"),
    ("etag", '"6925a3f1-2e6f8"'),
)


def _text(size: int) -> bytes:
    """Something of letters and lines, always the same."""
    random = Random(size)
    return b"".join(b"%x\n" % random.getrandbits(252) for _ in range(size // 60 + 1))[:size]


def _flags() -> bytes:
    flags = ",".join(
        f'"feature-{number}":{{"enabled":true,"variant":"test-{number}"}}' for number in range(45)
    )
    return f'{{"flags":{{{flags}}},"errorsWhileComputingFlags":false}}'.encode()


ANSWERS = (
    Answer("/static/", "script", "application/javascript", _FILE, _text(190 * 1024)),
    Answer("/flags", "flags", "application/json", _CORS, _flags()),
    Answer("/project/", "app", "text/html; charset=utf-8", _APP, _text(16 * 1024)),
    Answer("/api/", "download", "application/octet-stream", _APP, _text(1024 * 1024)),
    Answer("/s/", "replay", "application/json", _CORS, b'{"status":1}'),
    Answer("/", "event", "application/json", _CORS, b'{"status":"Ok"}'),
)
"""The first one that fits holds; the last one fits everything."""


def answer_to(path: str) -> Answer:
    """Return what a request for ``path`` is answered with."""
    return next(answer for answer in ANSWERS if path.startswith(answer.prefix))
