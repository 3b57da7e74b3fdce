"""The proxies that are measured: nginx, HAProxy, Caddy and ours, each with one core and configured for its
best.

All do the same: Host kept, X-Forwarded-For as the one address of the client, X-Forwarded-Proto, -Host and
-Port, X-Request-Id; keep-alive on both sides; an access log in a file. Behind a balancer
(``Setting.trusted``) all find the client in a chain whose last hops are in 10.0.0.0/8. The configuration
files beside this one say the rest, and each result file holds them as they were.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from benchmarks.process import LOOPBACK, ROOT, Child, on_free_port
from benchmarks.templates import render
from proxy.spool.inventory import Inventory
from proxy.spool.record import total

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.process import Address

HERE = Path(__file__).parent

TRUSTED_NETWORKS = ("127.0.0.1/32", "10.0.0.0/8")

LONG = 600
"""Seconds that idle connections are kept, by all: those of a load must outlast its rounds."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a proxy is started for: the origin's port, whether its clients are balancers to be believed, how
    many ``clients`` connect to it at once, how many descriptors it may open."""

    origin: int
    trusted: bool
    clients: int
    descriptors: int
    folder: Path
    core: int
    tcp: bool = False
    pem: Path | None = None
    """Certificate and key of proxies that are to end TLS."""
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that accepts connections. ``log`` is its access log, ``config`` all that it was told."""

    name: str
    child: Child
    address: Address
    log: Path
    config: str
    ours: bool = False
    tls: bool = False
    spool: Path | None = None
    """Where it keeps what it has yet to deliver: that is part of the work."""

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def waiting(self) -> int:
        """Records in its spool that it has yet to deliver."""
        if self.spool is None:
            return 0
        upstreams = total(file.upstreams for file in Inventory(self.spool).figures())
        return sum(figures.depth for figures in upstreams.values())


class Peer(Protocol):
    """A proxy that can be started. ``programs`` are what it needs on the path; ``relays``: it can relay
    bytes as it is installed (nginx needs a module for that, and so does Caddy); ``ends_tls``: for clients
    that name no host, as the generator is one (Caddy refuses those); ``caches``: it has a cache that takes
    scripts (HAProxy's takes less, Caddy has none)."""

    @property
    def name(self) -> str: ...

    @property
    def programs(self) -> tuple[str, ...]: ...

    @property
    def relays(self) -> bool: ...

    @property
    def ends_tls(self) -> bool: ...

    @property
    def caches(self) -> bool: ...

    def version(self) -> list[str | Path]:
        """The command that prints its version."""

    def start(self, setting: Setting) -> Running:
        """Start it. Raises ``StartError`` when it does not come up; the caller ends it."""


NGINX_CACHE = (
    "proxy_cache_path nginx-cache keys_zone=assets:10m max_size=64m; proxy_cache assets; "
    "proxy_cache_lock on; "
    "proxy_cache_key $proxy_host$http_host$request_uri; sendfile on; tcp_nopush on; "
    "open_file_cache max=1000 inactive=1h;"
)


@dataclass(frozen=True, slots=True)
class Nginx:
    name: str = "nginx"
    programs: tuple[str, ...] = ("nginx",)
    relays: bool = False
    ends_tls: bool = True
    caches: bool = True

    def version(self) -> list[str | Path]:
        return ["nginx", "-v"]

    def start(self, setting: Setting) -> Running:
        networks = "".join(f"set_real_ip_from {network}; " for network in TRUSTED_NETWORKS)
        values = {
            "trust": f"{networks}real_ip_header X-Forwarded-For; real_ip_recursive on;"
            if setting.trusted
            else "",
            "believed": "https https;" if setting.trusted else "",
            "ssl": " ssl" if setting.pem else "",
            "pair": f"ssl_certificate {setting.pem}; ssl_certificate_key {setting.pem};"
            if setting.pem
            else "",
            "cache": NGINX_CACHE if setting.cached else "",
        }
        return _start(self.name, setting, "nginx.conf", ["nginx", "-p", str(setting.folder), "-c"], values)


@dataclass(frozen=True, slots=True)
class HAProxy:
    name: str = "haproxy"
    programs: tuple[str, ...] = ("haproxy",)
    relays: bool = True
    ends_tls: bool = True
    caches: bool = False

    def version(self) -> list[str | Path]:
        return ["haproxy", "-v"]

    def start(self, setting: Setting) -> Running:
        # It has no walk along a chain; a step for each hop that may be ours comes to the same.
        step = "    http-request set-var(txn.client) req.hdr_ip(x-forwarded-for,-{})"
        inner = f" if {{ var(txn.client) -m ip {TRUSTED_NETWORKS[1]} }}"
        walk = [step.format(1), step.format(2) + inner, step.format(3) + inner]
        values = {
            "trust": "\n".join(walk) if setting.trusted else "",
            "client": "var(txn.client)" if setting.trusted else "src",
            "proto": "%[req.hdr(x-forwarded-proto)]"
            if setting.trusted
            else "https"
            if setting.pem
            else "http",
            "ssl": f" ssl crt {setting.pem} alpn http/1.1" if setting.pem else "",
        }
        template = "haproxy_tcp.cfg" if setting.tcp else "haproxy.cfg"
        return _start(self.name, setting, template, ["haproxy", "-db", "-f"], values, log="out")


@dataclass(frozen=True, slots=True)
class Caddy:
    name: str = "caddy"
    programs: tuple[str, ...] = ("caddy",)
    relays: bool = False
    ends_tls: bool = False
    caches: bool = False

    def version(self) -> list[str | Path]:
        return ["caddy", "version"]

    def start(self, setting: Setting) -> Running:
        # Caddy 2.6 appends the peer to a trusted peer's chain and walks along none.
        values = {
            "trust": f"trusted_proxies {' '.join(TRUSTED_NETWORKS)}" if setting.trusted else "",
        }
        env = {
            "GOMAXPROCS": "1",
            "XDG_DATA_HOME": str(setting.folder),
            "XDG_CONFIG_HOME": str(setting.folder),
        }
        argv = ["caddy", "run", "--adapter", "caddyfile", "--config"]
        return _start(self.name, setting, "Caddyfile", argv, values, env=env)


def _start(
    name: str,
    setting: Setting,
    template: str,
    argv: list[str],
    values: dict[str, str],
    *,
    log: str = "log",
    env: dict[str, str] | None = None,
) -> Running:
    folder = setting.folder
    config = folder / f"{name}.conf"
    access = folder / f"{name}.{log}"

    def start(port: int) -> Child:
        text = render(
            HERE / template,
            port=port,
            origin=setting.origin,
            clients=setting.clients,
            connections=2 * setting.clients,
            descriptors=setting.descriptors,
            folder=folder,
            log=access,
            client_port=443 if setting.trusted else port,
            **values,
        )
        config.write_text(text)
        return Child([*argv, str(config)], name=name, core=setting.core, folder=folder, env=env)

    child, port = on_free_port(start)
    return Running(name, child, (LOOPBACK, port), access, config.read_text(), tls=setting.pem is not None)


# --- ours ------------------------------------------------------------------------------------------

SETTINGS = {
    "pool.idle": 1024,
    "pool.connections": 4096,
    "pool.max_age": LONG,
    "upstreams.default.idle_timeout": LONG,
    "timeouts.keep_alive": LONG,
    "limits.requests_per_connection": 1_000_000,
}
"""What the other proxies are also told: long keep-alive on both sides, enough connections. Limits, counters,
time-outs and the access log are as shipped."""


@dataclass(frozen=True, slots=True)
class Ours:
    """A build of this proxy: the Python that has it, what is put before and after (`VAR=VALUE`,
    arguments), the module that is run."""

    name: str
    python: Path
    env: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    module: str = "proxy"
    spool: str = ""
    """Its `--spool-mode`, if it has a spool."""
    relays: bool = True
    ends_tls: bool = True
    caches: bool = True

    @property
    def programs(self) -> tuple[str, ...]:
        return (str(self.python),)

    def version(self) -> list[str | Path]:
        return [self.python, "-c", _ABOUT]

    def start(self, setting: Setting) -> Running:
        log = setting.folder / f"{self.name}.log"
        settings = SETTINGS | {
            "limits.connections": setting.clients,
            "limits.connections_per_client": setting.clients,
            "cache.enabled": str(setting.cached).lower(),
        }
        argv: list[str | Path] = [self.python, "-m", self.module, "run"]
        if setting.tcp:
            file = setting.folder / f"{self.name}.toml"
            file.write_text(f"listen = []\n[[listeners]]\naddress = '{LOOPBACK}:0'\nmode = 'tcp'\n")
            argv += ["--config", file]
        elif setting.pem:
            argv += ["--listen-tls", f"{LOOPBACK}:0", "--tls-cert", setting.pem]
        else:
            argv += ["--listen", f"{LOOPBACK}:0"]
        argv += ["--upstream", f"http://{LOOPBACK}:{setting.origin}", "--access-log", log]
        argv += ["--trusted-proxies", ",".join(TRUSTED_NETWORKS)] if setting.trusted else []
        argv += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        spool = setting.folder / f"{self.name}.spool" if self.spool else None
        argv += ["--spool", spool, "--spool-mode", self.spool] if spool else []
        argv += self.arguments
        env = self.env | self._path()
        child = Child(argv, name=self.name, core=setting.core, folder=setting.folder, env=env)
        try:
            child.wait_for(lambda: _listening(child) is not None, "listening")
        except BaseException:
            child.stop()
            raise
        port = _listening(child)
        assert port is not None
        config = shlex.join([*(f"{name}={value}" for name, value in env.items()), *map(str, argv)])
        tls = setting.pem is not None
        return Running(self.name, child, (LOOPBACK, port), log, config, ours=True, tls=tls, spool=spool)

    def _path(self) -> dict[str, str]:
        """The working tree stands in for an installation only where this very Python is measured."""
        return {"PYTHONPATH": str(ROOT)} if self.python == Path(sys.executable) else {}


def _listening(child: Child) -> int | None:
    for line in child.err.read_text().splitlines():
        if '"listening"' in line:
            return int(json.loads(line)["address"].rpartition(":")[2])
    return None


_ABOUT = """
import pathlib, platform, sys
from importlib.metadata import PackageNotFoundError, version
import proxy
def of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
folder = pathlib.Path(proxy.__file__).parent
place = "installed" if "site-packages" in folder.parts else "working tree"
compiled = len(list(folder.rglob("*.so")))
print(f"{of('posthog-proxy')} ({place}), {compiled} compiled modules, Python {platform.python_version()}, "
      f"uvloop {of('uvloop')}, h11 {of('h11')}")
"""


def parse_ours(text: str) -> Ours:
    """Read `NAME=[VAR=VALUE ...] PYTHON [ARGUMENT ...]`. Raises ``ValueError`` for anything else.

    >>> parse_ours("compiled=/opt/c/bin/python").name
    'compiled'
    """
    name, _, rest = text.partition("=")
    words = shlex.split(rest)
    env: dict[str, str] = {}
    while words and "=" in words[0]:
        variable, _, value = words.pop(0).partition("=")
        env[variable] = value
    if not words or not name.replace("-", "").isalnum():
        raise ValueError(f"{text!r} is not NAME=[VAR=VALUE ...] PYTHON [ARGUMENT ...]")
    python = shutil.which(words[0])
    if python is None:
        raise ValueError(f"{words[0]} is no program")
    # Not resolved: a virtual environment's Python is a link, and knows where it is by the link's place.
    return Ours(name, Path(python).absolute(), env, tuple(words[1:]))


OTHERS: tuple[Peer, ...] = (Nginx(), HAProxy(), Caddy())

WATCHING: tuple[Peer, ...] = (
    Ours("watched", Path(sys.executable), arguments=("--set", "admin.listen=127.0.0.1:0")),
    Ours("unlogged", Path(sys.executable), arguments=("--access-log", "off")),
    Ours("bare", Path(sys.executable), module="benchmarks.bare"),
)
"""This working tree with everything on that watches it, without the access log, and without anything:
`--peers bare,unlogged,watched` shows what each costs."""

SPOOLING: tuple[Peer, ...] = (
    Ours("fallback", Path(sys.executable), spool="fallback"),
    Ours("first", Path(sys.executable), spool="first"),
)
"""This working tree with a spool, `first` measured with the delivery of all that it kept:
`--loads ingest --peers nginx,ours,fallback,first --rate 2000`."""


def choose(names: Sequence[str], ours: Sequence[Ours]) -> list[Peer]:
    """Return the proxies called ``names`` (`ours` stands for all of ``ours``). Raises ``ValueError`` for
    unknown ones and for names that are given twice."""
    known: dict[str, list[Peer]] = {peer.name: [peer] for peer in (*OTHERS, *WATCHING, *SPOOLING)}
    known |= {build.name: [build] for build in ours}
    known["ours"] = list(ours)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no such peer: {', '.join(unknown)} (there are {', '.join(known)})")
    chosen = [peer for name in names for peer in known[name]]
    if len({peer.name for peer in chosen}) < len(chosen):
        raise ValueError("two peers have the same name")
    return chosen
