"""The shipped units under a real systemd: readiness, reload, restart, watchdog, hardening, journal."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest

from proxy.setup.plan import DISABLE, ENABLE
from proxy.standin.server import Standin
from tests.support.load import Load
from tests.support.machine import PATIENCE, Machine, MachineError
from tests.support.ports import free_port
from tests.support.tls import self_signed
from tests.support.wire import OK, Client, RawUpstream, Received, exchange

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("machine", "openssl")

SERVICE, SOCKET = "posthog-proxy.service", "posthog-proxy.socket"
EVENT = b"POST /e/ HTTP/1.1\r\nHost: posthog.example.test\r\nContent-Length: 2\r\n\r\nhi"
STATUS = re.compile(r"serving on (\S+)")


class Installed:
    """The units in a machine, for a service on a port of this one."""

    def __init__(self, machine: Machine, upstream: RawUpstream, folder: Path) -> None:
        self.machine = machine
        self.upstream = upstream
        self.address = ("127.0.0.1", free_port())
        self.folder = folder
        self._config = folder / "posthog-proxy.toml"
        machine.run("sh", "-c", "cp /systemd/*.service /systemd/*.socket /etc/systemd/system")
        machine.run("ln", "-s", "/test", "/etc/posthog-proxy")
        self.change("SERVICE", "[Unit]\nStartLimitIntervalSec=0\n")
        self.change("SOCKET", f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{self.address[1]}\n")
        self.configure()

    def configure(self, *, workers: int = 1, first: str = "", more: str = "") -> None:
        """Write the configuration: ``first`` keys without a table, ``more`` tables."""
        first += f"listen = ['127.0.0.1:{self.address[1]}']\nupstream = '{self.upstream.url}'\n"
        self._config.write_text(f"{first}workers = {workers}\n{more}")

    def change(self, unit: str, text: str) -> None:
        """Write a drop-in for a unit, as `systemctl edit` does."""
        folder = f"/etc/systemd/system/{SERVICE if unit == 'SERVICE' else SOCKET}.d"
        name = re.sub(r"\W", "", text)[:20]
        self.machine.run("sh", "-c", f"mkdir -p {folder} && printf %s '{text}' > {folder}/{name}.conf")
        self.machine.run("systemctl", "daemon-reload")

    def start(self, *, socket: bool = False) -> None:
        units = [SOCKET, SERVICE] if socket else [SERVICE]
        self.machine.run("systemctl", "start", *units)

    def pids(self) -> tuple[int, set[int]]:
        """The main process and its workers, as numbered in the machine."""
        main = int(self.machine.show(SERVICE, "MainPID"))
        path = f"/proc/{main}/task/{main}/children"
        return main, {int(pid) for pid in self.machine.run("cat", path).split()}

    def events(self, name: str) -> list[dict[str, object]]:
        return [line for line in self.machine.journal(SERVICE) if line.get("event") == name]

    def wait(self, condition: str) -> None:
        """Wait in the machine until a shell condition holds."""
        self.machine.run("timeout", "50", "sh", "-c", f"until {condition}; do sleep 0.1; done")

    def wait_for_event(self, name: str, count: int = 1) -> None:
        grep = f'journalctl --no-pager -o cat -u {SERVICE} | grep -c \'"event": *"{name}"\''
        self.wait(f"test $({grep}) -ge {count}")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Path]]:
    folder = tmp_path_factory.mktemp("machine")
    with Machine(folder) as booted:
        yield booted, folder


@pytest.fixture
def installed(machine: tuple[Machine, Path]) -> Iterator[Installed]:
    booted, folder = machine
    with RawUpstream() as upstream:
        yield Installed(booted, upstream, folder)
        booted.run("systemctl", "stop", SOCKET, SERVICE)
        booted.run("systemctl", "reset-failed", check=False)
        booted.run("sh", "-c", "rm -rf /etc/posthog-proxy /etc/systemd/system/posthog-proxy*")
        booted.run("journalctl", "--rotate", "--vacuum-time=1s")


@pytest.mark.parametrize("workers", [1, 2])
def test_it_is_active_when_it_serves_and_stops_cleanly(installed: Installed, workers: int) -> None:
    installed.configure(workers=workers)
    installed.start()
    assert exchange(installed.address, EVENT).status == 200  # at once: there is nothing to wait for
    status = STATUS.search(installed.machine.show(SERVICE, "StatusText"))
    assert status is not None
    assert status[1] == f"127.0.0.1:{installed.address[1]}"
    installed.machine.run("systemctl", "stop", SERVICE)
    assert installed.machine.show(SERVICE, "Result") == "success"
    assert installed.machine.show(SERVICE, "ExecMainStatus") == "0"
    assert installed.events("stopped")


def test_it_stops_within_its_time_though_an_answer_never_comes(installed: Installed) -> None:
    installed.configure(more="[timeouts]\ndrain = '500ms'\n")
    over = threading.Event()

    def hesitate(received: Received) -> bytes:
        over.wait(PATIENCE)
        return OK

    installed.upstream.answer = hesitate
    installed.start()
    with Client(installed.address) as client:
        client.send(EVENT)
        installed.upstream.next_request()
        installed.machine.run("systemctl", "stop", SERVICE, timeout=20)
        assert client.answer(b"POST").status == 503
    over.set()
    assert installed.machine.show(SERVICE, "Result") == "success"


def test_a_configuration_that_is_wrong_fails_the_start_and_the_journal_says_why(installed: Installed) -> None:
    installed.configure(more="[limits]\nhead_bytez = 1\n")
    installed.change("SERVICE", "[Service]\nRestart=no\n")
    with pytest.raises(MachineError):
        installed.start()
    said = installed.machine.run("journalctl", "--no-pager", "-o", "cat", "-u", SERVICE)
    assert "limits.head_bytez = 1: is not a known key (did you mean limits.head_bytes?)" in said
    assert "Traceback" not in said


def test_the_journal_has_one_readable_object_a_line(installed: Installed) -> None:
    installed.start()
    for _ in range(5):
        assert exchange(installed.address, EVENT).status == 200
    installed.machine.run("systemctl", "stop", SERVICE)
    journal = installed.machine.journal(SERVICE)
    assert [line["path"] for line in journal if "status" in line] == ["/e/"] * 5
    assert {line["event"] for line in journal if "event" in line} >= {"listening", "draining", "stopped"}


@pytest.mark.parametrize("workers", [1, 2])
def test_reloads_under_load_lose_nothing(installed: Installed, workers: int) -> None:
    installed.configure(workers=workers, more="[timeouts]\ndrain_idle = '5s'\n")
    installed.start()
    main, _ = installed.pids()
    with Load(installed.address) as load:
        for number in range(1, 4):
            installed.machine.run("systemctl", "reload", SERVICE)
            installed.wait_for_event("reloaded", number)
            load.wait_for_answers(50)
        met = load.stop()
    assert met.failures == []
    assert met.abandoned == 0
    assert installed.pids()[0] == main
    assert installed.machine.show(SERVICE, "ActiveState") == "active"


@pytest.mark.parametrize("workers", [1, 2])
def test_restarts_under_load_refuse_nobody_where_systemd_keeps_the_socket(
    installed: Installed, workers: int
) -> None:
    installed.configure(workers=workers)
    installed.start(socket=True)
    with Load(installed.address, kept=0, pausing=0, fresh=6) as load:
        for _ in range(3):
            before, _ = installed.pids()
            installed.machine.run("systemctl", "restart", SERVICE)
            assert installed.pids()[0] != before
            load.wait_for_answers(50)
        met = load.stop()
    assert met.failures == []


def test_the_first_connection_starts_it(installed: Installed) -> None:
    installed.machine.run("systemctl", "start", SOCKET)
    assert installed.machine.show(SERVICE, "ActiveState") == "inactive"
    assert exchange(installed.address, EVENT).status == 200
    assert installed.machine.show(SERVICE, "ActiveState") == "active"


def test_a_worker_that_is_killed_comes_back_and_so_does_the_parent(installed: Installed) -> None:
    installed.configure(workers=2)
    installed.start(socket=True)
    main, workers = installed.pids()
    installed.machine.run("kill", "-KILL", str(workers.pop()))
    installed.wait_for_event("worker_died")
    path = f"/proc/{main}/task/{main}/children"
    installed.wait(f"test $(wc -w < {path}) -eq 2")
    assert exchange(installed.address, EVENT).status == 200
    installed.machine.run("kill", "-KILL", str(main))
    with Client(installed.address):  # systemd has the socket: nobody is refused meanwhile
        installed.wait(f"test $(systemctl show --value -p NRestarts {SERVICE}) -ge 1")
    assert exchange(installed.address, EVENT).status == 200
    assert installed.pids()[0] != main


def test_a_worker_that_stands_still_is_replaced_and_the_service_outlives_its_watchdog(
    installed: Installed,
) -> None:
    installed.change("SERVICE", "[Service]\nWatchdogSec=2\n")  # far less than this test takes
    installed.configure(workers=2)
    installed.start()
    main, workers = installed.pids()
    stopped = workers.pop()
    installed.machine.run("kill", f"-{signal.SIGSTOP.name[3:]}", str(stopped))
    installed.wait_for_event("worker_stuck")
    path = f"/proc/{main}/task/{main}/children"
    installed.wait(f"test $(wc -w < {path}) -eq 2 && ! grep -qw {stopped} {path}")
    assert installed.pids()[0] == main
    for _ in range(10):  # whichever worker it meets
        assert exchange(installed.address, EVENT).status == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_the_watchdog_ends_a_service_that_stands_still(installed: Installed, workers: int) -> None:
    installed.change("SERVICE", "[Service]\nWatchdogSec=2\n")
    installed.configure(workers=workers)
    installed.start(socket=True)
    main, _ = installed.pids()
    installed.machine.run("kill", "-STOP", str(main))
    installed.wait(f"test $(systemctl show --value -p NRestarts {SERVICE}) -ge 1")
    installed.wait(f"systemctl is-active -q {SERVICE}")
    assert exchange(installed.address, EVENT).status == 200
    said = installed.machine.run("journalctl", "--no-pager", "-o", "cat", "-u", SERVICE)
    assert "Watchdog timeout" in said


def test_a_key_that_only_root_can_read(installed: Installed) -> None:
    folder = installed.folder
    pair = self_signed(folder)
    pair.key.chmod(0o600)
    given = "/run/credentials/posthog-proxy.service"
    load = f"LoadCredential=tls.key:/test/{pair.key.name}"
    installed.change("SERVICE", f"[Service]\n{load}\nLoadCredential=tls.crt:/test/{pair.certificate.name}\n")
    port = free_port()
    installed.configure(
        first=f"listen_tls = '127.0.0.1:{port}'\n",
        more=f"[tls]\ncertificate = '{given}/tls.crt'\nkey = '{given}/tls.key'\n",
    )
    installed.start(socket=True)
    context = ssl.create_default_context(cafile=pair.certificate)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as client,
    ):
        client.sendall(EVENT)
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


async def test_what_init_writes_serves_and_goes_again(machine: tuple[Machine, Path]) -> None:
    booted, _ = machine

    async def run(command: str, **options: bool) -> str:
        return await asyncio.to_thread(booted.run, "sh", "-c", command, **options)

    async with Standin() as standin:
        address = ("127.0.0.1", free_port())
        before = await run("find /etc | sort")
        said = await run(f"posthog-proxy init --upstream {standin.url} --listen 127.0.0.1:{address[1]}")
        assert f"  {ENABLE}\n" in said
        alias = re.search(r'api_host: "https://<.*?>(/[\w-]+)"', said)
        assert alias is not None
        await run(f"systemctl daemon-reload && {ENABLE}")
        body = json.dumps({"event": "seen", "token": "phc_1", "distinct_id": "u"}).encode()
        head = f"POST {alias[1]}/e/ HTTP/1.1\r\nHost: e.test\r\nContent-Length: {len(body)}\r\n\r\n"
        answer = await asyncio.to_thread(exchange, address, head.encode() + body)
        assert (answer.status, answer.body) == (200, b'{"status":"Ok"}')
        assert [event.name for event in standin.events] == ["seen"]
        assert await run("posthog-proxy init --uninstall 2>&1", check=False) == (
            f"error: posthog-proxy.service and posthog-proxy.socket still in use; first: {DISABLE}\n"
        )
        await run(f"{DISABLE} && posthog-proxy init --uninstall && systemctl daemon-reload")
        assert await run("find /etc | sort") == before


def test_how_much_it_is_exposed(installed: Installed) -> None:
    installed.start()
    done = installed.machine.run("systemd-analyze", "security", "--json=short", SERVICE)
    assert json.loads(done)
    overall = installed.machine.run("systemd-analyze", "security", "--threshold=20", SERVICE)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", overall)
    assert exposure is not None
    assert float(exposure[1]) <= 2.0
    assert exchange(installed.address, EVENT).status == 200
