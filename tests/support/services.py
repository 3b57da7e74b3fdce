"""Small HTTP services that say who was asked for what: what stands behind a proxy that divides paths."""

from __future__ import annotations

import json
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.tls import Certificate


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    """With the default of 5 the kernel drops some of the connections that come at once; they come again a
    second later, when their clients may have left."""


class Service:
    """One service called ``name``; ``targets`` is what it was asked for.

    With ``own_host`` it answers 404 to any other Host than its own. With a certificate it speaks TLS and
    notes which names it was greeted with (``greetings``).
    """

    def __init__(self, name: str, *, own_host: bool, certificate: Certificate | None) -> None:
        self.greetings: set[str | None] = set()
        self.targets: list[str] = []
        self._server = _Server(("127.0.0.1", 0), _handler(self, name))
        self._server.daemon_threads = True
        self.authority = f"localhost:{self._server.server_port}"
        self.own_host = own_host
        self.tls = certificate is not None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            context.sni_callback = lambda _, greeting, __: self.greetings.add(greeting)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(service: Service, name: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            known = not service.own_host or self.headers["Host"] == service.authority
            service.targets.append(self.path)
            said = {"service": name, "target": self.path, "fields": self.headers.items()}
            body = json.dumps(said).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def services(
    *names: str, own_host: bool = False, certificate: Certificate | None = None
) -> Iterator[dict[str, Service]]:
    """Run one service for each name."""
    running = {name: Service(name, own_host=own_host, certificate=certificate) for name in names}
    for service in running.values():
        service.start()
    try:
        yield running
    finally:
        for service in running.values():
            service.stop()
