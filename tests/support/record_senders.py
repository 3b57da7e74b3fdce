"""Records the requests that real senders send, as files NAME.http, for tests/corpus/senders.

    python -m tests.support.record_senders [FOLDER]

The released SDKs, a browser and curl talk to PostHog's stand-in, directly and through nginx, HAProxy, Apache
and Caddy; what arrives is kept byte for byte. Each kind of request (sender, front, method, path, names of the
header lines) is kept once, with its body. Files of earlier recordings are replaced; those of shapes that are
not recorded but written from a vendor's documentation stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from posthog import Posthog
from posthog.request import reset_sessions

from tests.e2e.chromium import POSTHOG_HOST, chromium, opened, web_site
from tests.support import servers
from tests.support.corpus import CORPUS
from tests.support.curl import curl
from tests.support.parts import NODE_MODULES, find
from tests.support.process import ROOT, Process
from tests.support.tls import self_signed
from tests.support.wire import Message, Reader, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.servers import Server

TOKEN = "phc_recorded"

LARGEST_BODY = 20_000
"""A larger one would say nothing more about its head."""

RECORDED = ("curl", "posthog-js", "posthog-node", "posthog-python")
"""Beginnings of the names of recorded files."""


class Tap:
    """A relay to ``target`` that keeps what clients send."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._streams: list[bytearray] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def take(self) -> list[Message]:
        """Return the requests that have come since the last call, on whichever connection."""
        found: list[Message] = []
        for stream in self._streams:
            found += messages(bytes(stream))
            stream.clear()
        return found

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                upstream = socket.create_connection(self._target)
                kept = bytearray()
                self._streams.append(kept)
                for pair in ((client, upstream, kept), (upstream, client, None)):
                    threading.Thread(target=_pass_on, args=pair, daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, kept: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            if kept is not None:
                kept += data
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def messages(stream: bytes) -> list[Message]:
    """Split what one client has sent into requests."""
    ours, theirs = socket.socketpair()
    theirs.close()
    found: list[Message] = []
    with ours, contextlib.suppress(WireError):
        reader = Reader(ours)
        reader.buffer = stream
        while True:
            found.append(reader.body(Message(reader.until(b"\r\n\r\n")), until_close=False))
    return found


# --- senders: each talks to ``url`` and returns when it is done ------------------------------------

EVENT = '{"api_key":"phc_recorded","event":"recorded","distinct_id":"u1","properties":{"$lib":"web"}}'


def send_with_curl(url: str) -> None:
    """curl as people try an installation with it."""
    body = ("--json", EVENT)
    calls: list[tuple[str | Path, ...]] = [
        (f"{url}/static/array.js",),
        (f"{url}/array/{TOKEN}/config.js",),
        (f"{url}/array/{TOKEN}/config", "--compressed"),
        (*body, f"{url}/e/"),
        (*body, f"{url}/i/v0/e/"),
        ("--data", EVENT, "--header", "Content-Type: application/json", f"{url}/capture/"),
        ("--data-urlencode", f"data={EVENT}", f"{url}/e/"),
        ("--json", f'{{"api_key":"{TOKEN}","batch":[{EVENT}]}}', f"{url}/batch/"),
        ("--json", f'{{"token":"{TOKEN}","distinct_id":"u1"}}', f"{url}/flags/?v=2"),
        (*body, "--user-agent", "", f"{url}/e/"),
        (*body, f"{url}/e/", f"{url}/e"),
        ("--request", "OPTIONS", "--header", "Origin: https://shop.example", f"{url}/e/"),
        ("--get", "--data-urlencode", f"data={EVENT}", f"{url}/e/"),
    ]
    if url.startswith("http:"):
        calls.append(("--http1.0", *body, f"{url}/e/"))
    for call in calls:
        curl("--insecure", *call)


def send_with_python(url: str) -> None:
    """posthog-python: a batch, flags, and definitions for local evaluation."""
    if not url.startswith("http:"):
        return  # it would want the certificate to be signed
    for options in ({}, {"gzip": True}, {"secret_key": "phx_recorded"}):
        client = Posthog(TOKEN, host=url, **options)
        client.capture("recorded", distinct_id="ann", properties={"price": 9.5})
        client.set(distinct_id="ann", properties={"plan": "free"})
        client.get_all_flags("ann")
        client.shutdown()
    reset_sessions()


def send_with_node(url: str) -> None:
    """posthog-node: a batch at the end, one event at once, flags, definitions for local evaluation."""
    if not url.startswith("http:"):
        return
    driver = ROOT / "tests" / "e2e" / "node" / "scenarios.mjs"
    for scenario in ("shutdownFlush", "captureImmediate", "remoteFlags", "localFlags"):
        with Process([find("node"), driver, scenario, url, TOKEN]) as process:
            process.wait()


def send_with_browser(url: str) -> None:
    """posthog-js in Chromium: a visit with a click and a recording, to its end."""
    asyncio.run(_visit(url))


PREFLIGHTED = """async (url) => {
    const headers = {"Content-Type": "application/json"};
    await fetch(url, {method: "POST", body: "{}", headers});
}"""
"""A request that the browser asks for first."""


async def _visit(url: str) -> None:
    async with chromium() as browser, web_site() as site:
        host = url.replace("127.0.0.1", POSTHOG_HOST)
        async with opened(browser, f"{site}/shop.html", ignore_https_errors=True) as tab:
            await tab.start_posthog(host, TOKEN)
            await tab.page.wait_for_function("posthog.sessionRecordingStarted()")
            await tab.page.click("#buy")
            await tab.page.evaluate("posthog.capture('bought', {price: 9.5})")
            async with tab.page.expect_response(lambda answer: "/s/" in answer.url):
                pass
            await tab.page.evaluate(PREFLIGHTED, f"{host}/e/")
            await tab.page.evaluate("posthog.capture('leaving')")
            await tab.page.close(run_before_unload=True)
            await asyncio.sleep(1)  # a beacon has no answer that could be waited for


SENDERS: dict[str, Callable[[str], None]] = {
    "curl": send_with_curl,
    "posthog-python": send_with_python,
    "posthog-node": send_with_node,
    "posthog-js": send_with_browser,
}

# --- what stands between them and the proxy --------------------------------------------------------

FRONTS: dict[str, tuple[str, str]] = {
    "nginx-1.0": ("nginx", "port"),
    "nginx-1.1": ("nginx", "kept_port"),
    "nginx-h2": ("nginx", "tls_port"),
    "haproxy": ("haproxy", "port"),
    "haproxy-h2": ("haproxy", "tls_port"),
    "apache": ("apache", "port"),
    "caddy": ("caddy", "port"),
    "caddy-h2": ("caddy", "tls_port"),
}
"""By name: the server, and which of its ports (those for TLS speak HTTP/2 to browsers)."""

TEMPLATES = {
    "nginx": (servers.nginx, "nginx_senders.conf"),
    "haproxy": (servers.haproxy, "haproxy_senders.cfg"),
    "apache": (servers.apache, "apache_posthog_page.conf"),
    "caddy": (servers.caddy, "Caddyfile_front"),
}


@contextmanager
def running(tap: Tap, folder: Path) -> Iterator[dict[str, str]]:
    """Start all fronts; yields the URL of each way to the tap, the direct one under ``""``."""
    certificate = self_signed(folder, POSTHOG_HOST)
    with ExitStack() as stack:
        started: dict[str, Server] = {}
        for name, (start, template) in TEMPLATES.items():
            own = folder / name
            own.mkdir()
            started[name] = stack.enter_context(
                start(
                    template,
                    own,
                    upstream=f"127.0.0.1:{tap.port}",
                    certificate=certificate.certificate,
                    key=certificate.key,
                    pem=certificate.pem,
                )
            )
        urls = {"": f"http://127.0.0.1:{tap.port}"}
        for front, (name, port) in FRONTS.items():
            scheme = "https" if port == "tls_port" else "http"
            urls[front] = f"{scheme}://127.0.0.1:{started[name].ports[port]}"
        yield urls


# --- files ----------------------------------------------------------------------------------------


def name_of(sender: str, front: str, message: Message) -> str:
    """Name a request after who sent it, what relayed it, its method and its path."""
    method, target, _ = message.start_line.decode("latin-1").split(" ")
    path = re.sub(r"[^a-z0-9]+", "-", target.partition("?")[0].replace(TOKEN, "token").lower()).strip("-")
    return "-".join(filter(None, [sender, front and f"via-{front}", method.lower(), path]))


def kinds(sender: str, front: str, found: list[Message]) -> dict[str, Message]:
    """Keep one of each kind: by name, numbered where the header lines differ."""
    kept: dict[str, Message] = {}
    shapes: set[tuple[object, ...]] = set()
    for message in found:
        name = name_of(sender, front, message)
        names = [field for field, _ in message.fields]
        # A beacon differs from a fetch in its mode only.
        shape = (name, message.start_line[-8:], *names, *message.values("Sec-Fetch-Mode"))
        if shape in shapes or len(message.body) > LARGEST_BODY:
            continue
        shapes.add(shape)
        number = 1 + sum(each == name or each.startswith(f"{name}.") for each in kept)
        kept[name if number == 1 else f"{name}.{number}"] = message
    return kept


def record() -> dict[str, Message]:
    """Let every sender talk, directly and through every front."""
    kept: dict[str, Message] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.standin("--static", str(NODE_MODULES / "posthog-js" / "dist")) as standin,
        Tap(("127.0.0.1", int(standin.rpartition(":")[2]))) as tap,
        running(tap, Path(folder)) as urls,
    ):
        Path(folder).chmod(0o755)
        for front, url in urls.items():
            for sender, send in SENDERS.items():
                tap.take()
                send(url)
                found = kinds(sender, front, tap.take())
                print(f"{sender} {front or 'directly'}: {len(found)}", flush=True)
                kept |= found
    return kept


def versions() -> Iterator[str]:
    """What was recorded, for the folder's README."""
    for command in (("curl", "-V"), ("chromium", "--version"), ("node", "--version")):
        done = subprocess.run([find(command[0]), *command[1:]], capture_output=True, text=True, check=False)
        yield f"{command[0]}: {done.stdout.splitlines()[0]}"


def main(folder: Path) -> None:
    """Replace the recorded files in ``folder``."""
    kept = record()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.http"):
        if old.name.startswith(RECORDED):
            old.unlink()
    for name, message in kept.items():
        (folder / f"{name}.http").write_bytes(message.head + message.raw_body)
    print(f"{len(kept)} requests in {folder}")
    print(*versions(), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CORPUS / "senders")
