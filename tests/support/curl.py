"""curl as a client: one run, its answers apart, its own account of the transfer."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.parts import find
from tests.support.wire import Message


@dataclass(frozen=True, slots=True)
class CurlResult:
    """What curl got.

    ``heads`` are all answer heads in order, 1xx and redirects included; ``body`` is the last answer's
    content; ``info`` is curl's `%{json}` (num_redirects, num_connects, http_version …).
    """

    exit_code: int
    heads: tuple[Message, ...]
    body: bytes
    info: dict[str, Any]
    stderr: str

    @property
    def status(self) -> int:
        """The status of the last answer, 0 when there was none."""
        return int(self.info["http_code"])

    def values(self, name: str) -> list[bytes]:
        """Return the values of a header of the last answer."""
        return self.heads[-1].values(name)


def curl(*arguments: str | Path, timeout: float = 30.0) -> CurlResult:
    """Run curl with ``arguments`` (options and one URL or more), nothing of the user's settings."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = [find("curl"), "-q", "--silent", "--show-error", "--max-time", str(timeout), "--noproxy", "*"]
        urls = sum(str(word).startswith(("http://", "https://")) for word in arguments)
        outputs = ["--output", folder / "body"] * urls
        account = ["--dump-header", folder / "heads", "--write-out", "%{json}\n"]
        command = [str(word) for word in (*base, *account, *outputs, *arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout + 5, check=False)
        heads = (folder / "heads").read_bytes() if (folder / "heads").exists() else b""
        body = (folder / "body").read_bytes() if (folder / "body").exists() else b""
    last = done.stdout.splitlines()[-1] if done.stdout else "{}"
    return CurlResult(done.returncode, _split_heads(heads), body, json.loads(last), done.stderr)


def _split_heads(dumped: bytes) -> tuple[Message, ...]:
    pieces = [piece for piece in dumped.split(b"\r\n\r\n") if piece.strip()]
    return tuple(Message(piece.lstrip(b"\r\n") + b"\r\n\r\n") for piece in pieces)
