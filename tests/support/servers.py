"""The real servers around the proxy: nginx, Apache, HAProxy, Caddy, gunicorn, the stand-in, and the proxy.

Each is a context manager that yields once the server is ready. A server's configuration is a template
in tests/integration/configs: ``{{name}}`` stands for a value, and a name that ends in ``port`` and is not
given becomes a free port. When another process was quicker to take one, the server starts again with others.
"""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.parts import find
from tests.support.ports import free_port
from tests.support.process import ROOT, Process, StartError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

CONFIGS = ROOT / "tests" / "integration" / "configs"

TRIES = 4
"""Starts of a server before a taken port is an error."""

PORT_TAKEN = re.compile(r"address already in use|connection in use", re.IGNORECASE)

CONFIGURING = (
    "IS_BEHIND_PROXY",
    "TRUSTED_PROXIES",
    "TRUST_ALL_PROXIES",
    "ALLOWED_HOSTS",
    "ALLOWED_IP_BLOCKS",
    "DISABLE_SECURE_SSL_REDIRECT",
    "POSTHOG_PROXY",
)
"""Beginnings of the environment variables that PostHog or the proxy reads: only a test may set them."""


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without anything that configures PostHog or the proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(CONFIGURING)}
    return kept | {"PYTHONUNBUFFERED": "1"} | extra


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: its process and its ports on 127.0.0.1, by the name of their placeholder."""

    process: Process
    ports: Mapping[str, int]

    @property
    def address(self) -> tuple[str, int]:
        """Where the placeholder called ``port`` listens."""
        return ("127.0.0.1", self.ports["port"])

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.ports['port']}"

    @property
    def tls_authority(self) -> str:
        """Where the placeholder called ``tls_port`` listens."""
        return f"127.0.0.1:{self.ports['tls_port']}"


def _template(name: str, base: str | None = None) -> str:
    text = (CONFIGS / name).read_text()
    return text if base is None else (CONFIGS / base).read_text().replace("{{servers}}", text)


def _render(template: str, values: Mapping[str, object]) -> str:
    """Fill the placeholders. Raises ``KeyError`` for one without a value."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: str(values[found.group(1)]), template)


@contextmanager
def _serve(
    template: str,
    command: Sequence[str | Path],
    config: Path,
    values: Mapping[str, object],
    env: Mapping[str, str] | None = None,
    name: str = "",
) -> Iterator[Server]:
    wanted = set(re.findall(r"\{\{(\w*port)\}\}", template)) - set(values)
    config.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, TRIES + 1):
        ports = {name: free_port() for name in wanted}
        config.write_text(_render(template, {"folder": config.parent, **values, **ports}))
        with ExitStack() as started:
            process = started.enter_context(Process(command, env=env, name=name))
            try:
                _wait_until_ready(process, ports.values())
            except StartError:
                if attempt == TRIES or not PORT_TAKEN.search(process.report()):
                    raise
                continue
            yield Server(process, ports)
            return


def _wait_until_ready(process: Process, ports: Iterable[int]) -> None:
    for port in ports:
        process.wait_for_port("127.0.0.1", port)
    if PORT_TAKEN.search("\n".join(process.stderr)):
        # It was another's listener that accepted.
        raise StartError(process.report())


@contextmanager
def nginx(template: str, folder: Path, **values: object) -> Iterator[Server]:
    """nginx in the foreground with the servers of ``template`` (tests/integration/configs)."""
    config = folder / "nginx.conf"
    command: list[str | Path] = [find("nginx"), "-e", "stderr", "-c", config]
    with _serve(_template(template, "nginx_base.conf"), command, config, values) as server:
        yield server


@contextmanager
def apache(template: str, folder: Path, **values: object) -> Iterator[Server]:
    """Apache httpd in the foreground."""
    config = folder / "apache2.conf"
    command: list[str | Path] = [find("apache2"), "-DFOREGROUND", "-f", config]
    with _serve(_template(template, "apache_base.conf"), command, config, values) as server:
        yield server


@contextmanager
def haproxy(template: str, folder: Path, **values: object) -> Iterator[Server]:
    """HAProxy in the foreground."""
    config = folder / "haproxy.cfg"
    command: list[str | Path] = [find("haproxy"), "-db", "-f", config]
    with _serve(_template(template, "haproxy_base.cfg"), command, config, values) as server:
        yield server


@contextmanager
def caddy(template: str, folder: Path, **values: object) -> Iterator[Server]:
    """Caddy with a Caddyfile, its state kept inside ``folder``."""
    config = folder / "Caddyfile"
    command: list[str | Path] = [find("caddy"), "run", "--config", config, "--adapter", "caddyfile"]
    env = clean_environment(HOME=str(folder), XDG_DATA_HOME=str(folder), XDG_CONFIG_HOME=str(folder))
    with _serve(_template(template), command, config, values, env) as server:
        yield server


@contextmanager
def gunicorn(application: str, folder: Path, **env: str) -> Iterator[Server]:
    """gunicorn with one worker of threads, which keeps connections open.

    It believes no forwarding header itself: what the application makes of them is its own doing.
    """
    config = folder / "gunicorn.conf.py"
    command: list[str | Path] = [sys.executable, "-m", "gunicorn", "--config", config, application]
    environment = clean_environment(**env)
    with _serve(_template(config.name), command, config, {}, environment, "gunicorn") as server:
        yield server


@contextmanager
def standin(*arguments: str) -> Iterator[str]:
    """The stand-in for PostHog as a process of its own. Yields its URL, `http://127.0.0.1:PORT`."""
    argv = [sys.executable, "-m", "proxy.standin", "--listen", "127.0.0.1:0", *arguments]
    with Process(argv, name="standin", env=clean_environment()) as process:
        ready = process.wait_for_lines(r"ready (http://\S+)", stream="stdout")
        yield ready[0].group(1).rstrip("/")


@dataclass(frozen=True, slots=True)
class RunningProxy:
    """`posthog-proxy run` as a child. ``addresses`` are its listeners as the log named them."""

    process: Process
    addresses: tuple[str, ...]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first listener."""
        host, _, port = self.addresses[0].rpartition(":")
        return (host.strip("[]"), int(port))

    @property
    def authority(self) -> str:
        return self.addresses[0]

    @property
    def url(self) -> str:
        return f"http://{self.authority}"

    def access_log(self, count: int, *, timeout: float = 10.0) -> list[dict[str, Any]]:
        """Wait until the access log has ``count`` records and return all of them."""
        self.process.wait_for_lines(r"\A\{", count, stream="stdout", timeout=timeout)
        return [json.loads(line) for line in self.process.stdout]


def proxy_command(*arguments: str | Path) -> list[str | Path]:
    """The command line `posthog-proxy ARGUMENTS`, run from the working tree."""
    return [sys.executable, "-m", "proxy", *arguments]


@contextmanager
def posthog_proxy(
    upstream: str,
    *arguments: str | Path,
    listen: Sequence[str] = ("127.0.0.1:0",),
    trusted: str = "127.0.0.1",
    env: Mapping[str, str] | None = None,
) -> Iterator[RunningProxy]:
    """`posthog-proxy run` before ``upstream``, ready for requests.

    ``trusted`` is what `--trusted-proxies` gets; empty: nobody is trusted.
    """
    argv = proxy_command("run", "--upstream", upstream)
    for address in listen:
        argv += ["--listen", address]
    if trusted:
        argv += ["--trusted-proxies", trusted]
    environment = clean_environment(**(env or {}))
    with Process([*argv, *arguments], name="posthog-proxy", env=environment) as process:
        yield RunningProxy(process, listening(process, len(listen)))


def listening(process: Process, count: int = 1) -> tuple[str, ...]:
    """Wait until the proxy has logged ``count`` listeners and return their addresses."""
    lines = process.wait_for_lines(r'\A\{.*"event": ?"listening"', count)
    return tuple(json.loads(line.string)["address"] for line in lines)
