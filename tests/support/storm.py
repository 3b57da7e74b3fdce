"""A site whose processes are killed at random moments while clients send, and what has to be true afterwards:
every event that was acknowledged has arrived, at the right time, with the right client address.

Everything that happens is drawn from one seed, but for the moments at which the machine does it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any
from uuid import UUID

from posthog import Posthog

from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.servers import clean_environment, listening, proxy_command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

TOKEN = "phc_storm"
PATIENCE = 90.0
"""Seconds within which everything that was acknowledged must have arrived in the end."""


@dataclass
class Acknowledged:
    """An event that a client was told is taken: it happened between two moments, at ``ip``."""

    uuid: str
    sent: float
    told: float
    ip: str


@dataclass
class Arrivals:
    """What the stand-in's journal file says, line by line."""

    path: Path
    seen: dict[str, set[tuple[Any, ...]]] = field(default_factory=dict)
    lines: int = 0
    _at: int = 0

    def read(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._at)
            text = file.read()
        whole = text.rpartition(b"\n")[0] + b"\n" if b"\n" in text else b""
        self._at += len(whole)
        for line in whole.splitlines():
            token, day, name, distinct_id, uuid, moment, ip = json.loads(line)
            self.lines += 1
            self.seen.setdefault(uuid, set()).add((token, day, name, distinct_id, moment, ip))


class Site:
    """The stand-in and the proxy, each at an address that it has again after it was killed."""

    def __init__(self, folder: Path, mode: str, workers: int, static: Path | None = None) -> None:
        self.journal = folder / "journal.jsonl"
        self.journal.touch()
        self.spool = folder / "spool"
        self.workers = workers
        """Of the next start or reload."""
        self._config = folder / "proxy.toml"
        self._mode = mode
        self._static = static
        self._posthog_port = free_port()
        self.port = free_port()
        self.posthog: Process | None = None
        self.proxy: Process | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Site:
        self.start_posthog()
        self.start_proxy()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_posthog(self) -> None:
        address = f"127.0.0.1:{self._posthog_port}"
        argv: list[str | Path] = [sys.executable, "-m", "proxy.standin", "--listen", address]
        argv += ["--journal", self.journal]
        argv += [] if self._static is None else ["--static", self._static]
        self.posthog = self._stack.enter_context(Process(argv, name="standin", env=clean_environment()))
        self.posthog.wait_for_lines(r"ready (http://\S+)", stream="stdout")

    def start_proxy(self) -> None:
        self._configure()
        argv = proxy_command("run", "--config", self._config, "--listen", f"127.0.0.1:{self.port}")
        argv += ["--trusted-proxies", "127.0.0.1", "--access-log", "off"]
        argv += ["--spool", self.spool, "--spool-mode", self._mode]
        argv += ["--set", "health.open_min=0.2", "--set", "health.open_max=1"]
        self.proxy = self._stack.enter_context(Process(argv, name="proxy", env=clean_environment()))
        listening(self.proxy)

    def _configure(self) -> None:
        """Write what a reload may change."""
        upstream = f"http://127.0.0.1:{self._posthog_port}"
        self._config.write_text(f'upstream = "{upstream}"\nworkers = {self.workers}\n')

    def kill_posthog(self) -> None:
        assert self.posthog is not None
        self.posthog.send_signal(signal.SIGKILL)
        self.posthog.wait(PATIENCE)

    def kill_proxy(self) -> None:
        """Its workers end by themselves."""
        assert self.proxy is not None
        self.proxy.send_signal(signal.SIGKILL)
        self.proxy.wait(PATIENCE)

    def kill_worker(self, rng: random.Random) -> None:
        assert self.proxy is not None
        workers = self.proxy.children()
        if workers:
            os.kill(rng.choice(sorted(workers)), signal.SIGKILL)

    def stop_proxy(self) -> None:
        """Have it end by itself."""
        assert self.proxy is not None
        self.proxy.send_signal(signal.SIGTERM)
        assert self.proxy.wait(PATIENCE) == 0

    def move_posthog(self) -> None:
        """It starts at another address next time, of which the proxy hears with its next reload or start."""
        self._posthog_port = free_port()

    def reload(self) -> None:
        assert self.proxy is not None
        self._configure()
        self.proxy.send_signal(signal.SIGHUP)


class Client(threading.Thread):
    """Sends one event after the other, each until it is acknowledged, as the SDKs do."""

    def __init__(self, number: int, port: int, seed: int, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[Acknowledged] = []
        self.refused = 0
        self._port = port
        self._rng = random.Random(f"{seed} {number}")
        self._number = number
        self._over = over

    def run(self) -> None:
        count = 0
        connection: HTTPConnection | None = None
        while not self._over.is_set():
            count += 1
            uuid = str(UUID(int=self._rng.getrandbits(128), version=4))
            ip = f"203.0.113.{self._rng.randrange(1, 250)}"
            first = time.time()
            while not self._over.is_set():
                connection = connection or HTTPConnection("127.0.0.1", self._port, timeout=15)
                moment = time.time()
                try:
                    if self._send(connection, uuid, ip, moment, count):
                        self.acknowledged.append(Acknowledged(uuid, first, time.time(), ip))
                        break
                    self.refused += 1
                except (OSError, HTTPException):
                    connection.close()
                    connection = None
                self._over.wait(0.02)  # an SDK waits longer
        if connection is not None:
            connection.close()

    def _send(self, connection: HTTPConnection, uuid: str, ip: str, moment: float, count: int) -> bool:
        event = {
            "token": TOKEN,
            "event": "stormy",
            "distinct_id": f"client {self._number}",
            "uuid": uuid,
            "properties": {"count": count, "text": "x" * self._rng.randrange(2000)},
            **self._times(moment),
        }
        headers = {"X-Forwarded-For": ip, "Content-Type": "application/json"}
        connection.request("POST", "/e/", json.dumps(event).encode(), headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status == 200

    def _times(self, moment: float) -> Mapping[str, Any]:
        """An hour wrong, told by `sent_at`; by an offset; or nothing: then it happened on arrival."""
        kind = self._number % 3
        if kind == 0:
            return {"timestamp": iso(moment + 3600), "sent_at": iso(moment + 3600)}
        return {"offset": 0} if kind == 1 else {}


class SdkClient(threading.Thread):
    """posthog-python, which tries again by itself; what it gives up it says."""

    def __init__(self, port: int, seed: int, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[Acknowledged] = []
        self.refused = 0
        self._url = f"http://127.0.0.1:{port}"
        self._rng = random.Random(f"{seed} sdk")
        self._over = over

    def run(self) -> None:
        captured: dict[str, float] = {}
        given_up: set[str] = set()
        client = Posthog(
            TOKEN,
            host=self._url,
            flush_at=5,
            flush_interval=0.2,
            max_retries=10,
            on_error=lambda _, items: given_up.update(item["uuid"] for item in items),
        )
        while not self._over.wait(0.05):
            uuid = str(UUID(int=self._rng.getrandbits(128), version=4))
            captured[uuid] = time.time()
            client.capture("stormy", distinct_id="sdk", uuid=uuid)
        client.shutdown()
        end = time.time()  # its last try may have come late, and was then heard late
        self.refused = len(given_up)
        self.acknowledged = [
            Acknowledged(uuid, moment, end, "127.0.0.1")
            for uuid, moment in captured.items()
            if uuid not in given_up
        ]


def storm(
    folder: Path, mode: str, *, rounds: int, seed: int, clients: int = 6, workers: int = 2
) -> tuple[int, int, int]:
    """Kill something ``rounds`` times; return how many events were acknowledged, how many requests were
    refused meanwhile, and how many arrivals were copies. Fails when one is missing or wrong."""
    rng, over = random.Random(seed), threading.Event()
    with Site(folder, mode, workers) as site:
        senders: list[Client | SdkClient] = [SdkClient(site.port, seed, over)]
        senders += [Client(number, site.port, seed, over) for number in range(clients)]
        for sender in senders:
            sender.start()
        for _ in range(rounds):
            time.sleep(rng.uniform(0.05, 0.4))  # the moment is the point
            _strike(site, rng)
        over.set()
        for sender in senders:
            sender.join(PATIENCE)
            assert not sender.is_alive()
        acknowledged = {each.uuid: each for sender in senders for each in sender.acknowledged}
        assert acknowledged
        arrivals = Arrivals(site.journal)
        wait_for(lambda: all_there(arrivals, acknowledged))
        for uuid, sent in acknowledged.items():
            found = arrivals.seen[uuid]
            assert len({copy[:4] for copy in found}) == 1, found  # one after de-duplication
            for *_, ip in found:
                assert ip == sent.ip, (sent, found)
            assert all(sent.sent - 1 < moment < sent.told + 1 for *_, moment, _ in found), (sent, found)
        copies = arrivals.lines - len(arrivals.seen)
        return len(acknowledged), sum(sender.refused for sender in senders), copies


def _strike(site: Site, rng: random.Random) -> None:
    what = rng.choice(["worker", "worker", "posthog", "posthog", "proxy", "reload"])
    if what == "worker":
        site.kill_worker(rng)
    elif what == "reload":
        site.reload()
    elif what == "proxy":
        site.kill_proxy()
        site.start_proxy()
    else:
        site.kill_posthog()
        time.sleep(rng.uniform(0.0, 1.0))  # the outage
        site.start_posthog()


def all_there(arrivals: Arrivals, acknowledged: Mapping[str, Acknowledged]) -> bool:
    arrivals.read()
    return acknowledged.keys() <= arrivals.seen.keys()


def wait_for(met: Callable[[], bool]) -> None:
    due = time.monotonic() + PATIENCE
    while not met():
        assert time.monotonic() < due, "something that was acknowledged has not arrived"
        time.sleep(0.1)


def iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
