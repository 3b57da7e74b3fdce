"""A load set up: its requests in a file, its origin, the proxies before it, and the proof that they do their
work."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.loads import requests
from benchmarks.loads.client import ask, connect
from benchmarks.machine import Cores, resident
from benchmarks.origins import start_origin
from benchmarks.origins.answers import answer_to
from benchmarks.peers import Setting
from benchmarks.process import LOOPBACK, ROOT, Child, StartError, run
from proxy.rules.answers import KEPT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.loads import Load
    from benchmarks.peers import Peer, Running
    from benchmarks.process import Address

CHECKED = 50
"""Requests that each proxy must answer rightly before it is measured."""

SLACK = 128
"""Clients beyond those of the load, which count twice because old ones may still be closing when new ones
come."""

RESERVED = 256
"""Descriptors that a proxy wants for itself."""

HOLDING_TIMEOUT = 120.0
"""Seconds in which all idle connections must be open."""


class WrongAnswerError(Exception):
    """A proxy does not do what it is measured for."""


@dataclass(slots=True)
class Stage:
    """``started`` is each proxy's memory before its first request, in bytes."""

    load: Load
    cores: Cores
    folder: Path
    requests: Path
    origin: Address
    peers: list[Running]
    started: dict[str, int] = field(default_factory=dict)
    holding: dict[str, int] = field(default_factory=dict)
    holders: dict[str, Child] = field(default_factory=dict)

    def held(self, peer: str) -> int:
        """Idle connections that were opened to ``peer``."""
        return _last_count(self.holders[peer], "open") if peer in self.holders else 0

    def release(self, peer: str) -> int:
        """Let the idle connections go and return how many were still open."""
        if peer not in self.holders:
            return 0
        holder = self.holders[peer]
        holder.close_input()
        holder.wait_for(lambda: _says(holder, "left"), "counting its connections")
        return _last_count(holder, "left")


@contextmanager
def stage(load: Load, peers: Sequence[Peer], cores: Cores, descriptors: int) -> Iterator[Stage]:
    """Set ``load`` up, check every proxy, open the idle connections; take everything down at the end.

    Each process may open ``descriptors``; where they do not suffice, fewer idle connections are opened.

    Raises ``StartError`` when something does not start and ``WrongAnswerError`` when a proxy does not
    forward.
    """
    room = (descriptors - RESERVED) // 2 - 2 * load.connections - SLACK
    load = replace(load, idle=min(load.idle, room))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        folder.chmod(0o755)  # nginx's worker is another user where its master is root
        file = folder / "requests.bin"
        sent = requests.distinct(load.make, load.distinct)
        requests.write(sent, file)
        origin = start_origin(load, folder, cores.load, descriptors, stack)
        setting = Setting(
            origin=origin,
            trusted=load.trusted,
            clients=2 * load.connections + load.idle + SLACK,
            descriptors=descriptors,
            folder=folder,
            core=cores.peer,
            tcp=load.tcp,
            pem=_certificate(folder, cores.load) if load.scheme == "https" else None,
            cached=load.cached,
        )
        made = Stage(load, cores, folder, file, (LOOPBACK, origin), [])
        for peer in peers:
            lacks_tls = setting.pem is not None and not peer.ends_tls
            if (load.tcp and not peer.relays) or lacks_tls or (load.cached and not peer.caches):
                continue
            running = peer.start(setting)
            stack.enter_context(running.child)
            made.peers.append(running)
            made.started[running.name] = resident(running.pid)
        for running in made.peers:
            check(running, sent[:CHECKED])
            if load.idle:
                made.holders[running.name] = _hold(made, running, stack)
            made.holding[running.name] = resident(running.pid)
        yield made


def check(running: Running, sent: Sequence[bytes]) -> None:
    """Send each request over a connection of its own and compare the answer with the origin's, or that of a
    spool."""
    for request in sent:
        path = request.split(b" ", 2)[1].decode()
        try:
            with connect(running.address, tls=running.tls) as connection:
                reply = ask(connection, request)
        except OSError as error:
            raise WrongAnswerError(f"{running.name}: {path}: {error}: {running.child.report()}") from error
        right = reply.body == answer_to(path).body or (running.spool is not None and reply.body == KEPT)
        if reply.status != 200 or not right:
            raise WrongAnswerError(f"{running.name}: {path} is not the origin's answer: {reply.head!r}")


def _certificate(folder: Path, core: int) -> Path:
    """Make a certificate (ECDSA P-256, what public authorities give by default) and its key in one file."""
    file = folder / "certificate.pem"
    words = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bench"
    )
    run(
        [*words.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", file, "-out", f"{file}.crt"],
        core=core,
        timeout=30,
    )
    with file.open("ab") as both:
        both.write(Path(f"{file}.crt").read_bytes())
    file.chmod(0o644)
    return file


def _hold(made: Stage, running: Running, stack: ExitStack) -> Child:
    argv = [sys.executable, "-m", "benchmarks.loads.idle", running.address[0], str(running.address[1])]
    argv += [str(made.load.idle), str(made.requests)]
    name = f"idle-{running.name}"
    env = {"PYTHONPATH": str(ROOT)}
    holder = Child(argv, name=name, core=made.cores.load, folder=made.folder, env=env, talks=True)
    stack.enter_context(holder)
    holder.wait_for(lambda: _says(holder, "open"), "opening the connections", HOLDING_TIMEOUT)
    if _last_count(holder, "open") < made.load.idle:
        raise StartError(f"{running.name} kept only {_last_count(holder, 'open')} idle connections")
    return holder


def _says(child: Child, word: str) -> bool:
    return any(line.startswith(f"{word} ") for line in child.out.read_text().splitlines())


def _last_count(child: Child, word: str) -> int:
    return next(
        int(line.split()[1]) for line in child.out.read_text().splitlines() if line.startswith(f"{word} ")
    )
