"""Several workers and the parent above them, and reloads, with real processes under load."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import servers
from tests.support.load import Load
from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.servers import RunningProxy
from tests.support.wire import OK, Client, RawUpstream, exchange

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.wire import Received

EVENT = b"POST /e/ HTTP/1.1\r\nHost: posthog.example.test\r\nContent-Length: 2\r\n\r\nhi"
CLOSING = EVENT.replace(b"Host", b"Connection: close\r\nHost", 1)

RELOADS = int(os.environ.get("WORKERS_RELOADS", "20"))
"""Reloads under load; more in a soak."""

PROMPT = 20.0
"""Seconds for what must happen soon, on a busy machine."""


@contextmanager
def workers(
    upstream: RawUpstream, count: int | str, *arguments: str, listen: str = "127.0.0.1:0"
) -> Iterator[RunningProxy]:
    with servers.posthog_proxy(upstream.url, "--workers", str(count), *arguments, listen=[listen]) as proxy:
        yield proxy


class Setup:
    """A configuration file that a test changes."""

    def __init__(self, folder: Path, upstream: RawUpstream, **settings: Any) -> None:
        self._file = folder / "proxy.toml"
        self._upstream = upstream
        self.workers = 1
        self.listen = ["127.0.0.1:0"]
        self.more = ""
        self.change(**settings)

    def change(self, **settings: Any) -> None:
        """Write the file anew: `workers`, `listen`, `more` (TOML at the end)."""
        for name, value in settings.items():
            setattr(self, name, value)
        first = f"upstream = '{self._upstream.url}'\nworkers = {self.workers}\nlisten = {self.listen}\n"
        self._file.write_text(first + self.more)

    @contextmanager
    def running(self) -> Iterator[RunningProxy]:
        """`posthog-proxy run` with it, ready for requests."""
        command = servers.proxy_command("run", "--config", self._file)
        with Process(command, name="posthog-proxy", env=servers.clean_environment()) as process:
            yield RunningProxy(process, servers.listening(process, len(self.listen)))


def events(process: Process, name: str, count: int = 1) -> list[dict[str, Any]]:
    """Wait until the error log has ``count`` lines of this event."""
    lines = process.wait_for_lines(rf'"event": ?"{name}"', count, timeout=PROMPT)
    return [json.loads(line.string) for line in lines]


def stop(process: Process) -> dict[str, Any]:
    """End it gently; the last sum of its counters."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(PROMPT) == 0
    return events(process, "counters")[0]


# Serving.


def test_every_worker_serves_and_the_counters_are_one_sum() -> None:
    with RawUpstream() as upstream, workers(upstream, 2) as proxy:
        assert len(proxy.process.children()) == 2
        for _ in range(40):
            assert exchange(proxy.address, CLOSING).status == 200
        assert upstream.connection_count >= 2  # each worker has its own
        counters = stop(proxy.process)
        records = [json.loads(line) for line in proxy.process.stdout]
    assert counters["requests_total"] == counters["connections_total"] == len(records) == 40
    assert "open_connections" not in counters
    assert [line["event"] for line in map(json.loads, proxy.process.stderr)][-3:] == [
        "draining",
        "counters",
        "stopped",
    ]


def test_auto_is_a_worker_for_each_cpu_it_may_use() -> None:
    with RawUpstream() as upstream, workers(upstream, "auto") as proxy:
        usable = len(os.sched_getaffinity(proxy.process.pid))
        assert len(proxy.process.children()) == (usable if usable > 1 else 0)


def test_one_worker_is_one_process() -> None:
    with RawUpstream() as upstream, workers(upstream, 1) as proxy:
        assert proxy.process.children() == set()
        assert exchange(proxy.address, EVENT).status == 200


def test_lines_of_several_workers_stay_whole() -> None:
    """Lines longer than the 4 KiB that a pipe takes in one piece."""
    agent = "é" * 1000
    with RawUpstream() as upstream, workers(upstream, 2) as proxy:
        with Load(proxy.address, kept=2, pausing=0, fresh=2, agent=agent) as load:
            load.wait_for_answers(500)
            met = load.stop()
        stop(proxy.process)
        lines = proxy.process.stdout
    assert met.failures == []
    assert len(lines) == met.answered
    assert {json.loads(line)["user_agent"] for line in lines} == {agent}


def test_a_unix_socket_is_shared_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    with RawUpstream() as upstream:
        with workers(upstream, 2, listen=f"unix:{path}") as proxy:
            with Load(str(path), kept=0, pausing=0, fresh=4) as load:
                load.wait_for_answers(100)
                proxy.process.send_signal(signal.SIGHUP)
                events(proxy.process, "reloaded")
                load.wait_for_answers(100)
                assert load.stop().failures == []
            stop(proxy.process)
        assert not path.exists()


# Reloading.


@pytest.mark.parametrize("count", [1, 2])
def test_reloads_under_load_lose_nothing(count: int, tmp_path: Path) -> None:
    """Neither a request nor, as no client pauses for as long as `drain_idle`, an idle connection."""
    log = tmp_path / "access.log"
    settings = ("--set", "timeouts.drain_idle=5s", "--access-log", str(log))
    with RawUpstream() as upstream, workers(upstream, count, *settings) as proxy:
        with Load(proxy.address) as load:
            for number in range(1, RELOADS + 1):
                proxy.process.send_signal(signal.SIGHUP)
                events(proxy.process, "reloaded", number)
                load.wait_for_answers(20)
            met = load.stop()
        assert met.failures == []
        assert met.abandoned == 0
        assert met.announced >= RELOADS
        counters = stop(proxy.process)
    assert counters["requests_total"] == met.answered == len(log.read_text().splitlines())
    assert counters["upstream_failures_total"] == 0


def test_another_number_of_workers_loses_nothing(tmp_path: Path) -> None:
    with RawUpstream() as upstream:
        setup = Setup(tmp_path, upstream, workers=2)
        with setup.running() as proxy:
            with Load(proxy.address) as load:
                for number, count in enumerate([4, 1, 3], start=1):
                    setup.change(workers=count)
                    proxy.process.send_signal(signal.SIGHUP)
                    events(proxy.process, "reloaded", number)
                    load.wait_for_answers(100)
                    assert proxy.process.poll(lambda: len(proxy.process.children()) == count)  # noqa: B023
                met = load.stop()
            stop(proxy.process)
    assert met.failures == []
    assert met.abandoned == 0


@pytest.mark.parametrize("count", [1, 2])
def test_a_bad_configuration_is_refused_with_all_its_problems(count: int, tmp_path: Path) -> None:
    with RawUpstream() as upstream:
        setup = Setup(tmp_path, upstream, workers=count)
        with setup.running() as proxy:
            before = proxy.process.children()
            setup.change(more="upstrem = 1\n[limits]\nhead_bytes = -1\n")
            proxy.process.send_signal(signal.SIGHUP)
            refused = events(proxy.process, "reload_failed", 2)
            assert "did you mean upstream?" in refused[0]["detail"]
            assert "limits.head_bytes = -1" in refused[1]["detail"]
            assert exchange(proxy.address, EVENT).status == 200
            assert proxy.process.children() == before

            setup.change(more="[access]\nallowed_hosts = ['elsewhere.example.test']\n")
            proxy.process.send_signal(signal.SIGHUP)
            events(proxy.process, "reloaded")
            assert exchange(proxy.address, EVENT).status == 421


@pytest.mark.parametrize("count", [1, 2])
def test_what_the_system_refuses_at_a_reload(count: int, tmp_path: Path) -> None:
    """A log that cannot be opened (with several workers, they find out), a port that is taken."""
    with socket.create_server(("127.0.0.1", 0)) as other, RawUpstream() as upstream:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        setup = Setup(tmp_path, upstream, workers=count)
        with setup.running() as proxy:
            spare = f"127.0.0.1:{free_port()}"
            log = f"[log]\naccess = '{tmp_path}/none/access.log'\n"
            for number, (listen, more, said) in enumerate(
                [
                    ([*setup.listen, spare], log, "none/access.log"),
                    ([*setup.listen, spare, taken], "", taken),
                ],
                start=1,
            ):
                setup.change(listen=listen, more=more)
                proxy.process.send_signal(signal.SIGHUP)
                assert said in events(proxy.process, "reload_failed", number)[-1]["detail"]
                assert exchange(proxy.address, EVENT).status == 200
                proxy.process.wait_until_refused("127.0.0.1", int(spare.rpartition(":")[2]))
            stop(proxy.process)


@pytest.mark.parametrize("count", [1, 2])
def test_listeners_change_one_by_one(count: int, tmp_path: Path) -> None:
    """What stays keeps its socket, what is new is bound, the rest is closed."""
    path = tmp_path / "proxy.sock"
    with RawUpstream() as upstream:
        setup = Setup(
            tmp_path, upstream, workers=count, listen=["127.0.0.1:0", "127.0.0.1:0", f"unix:{path}"]
        )
        with setup.running() as proxy, Client(proxy.address) as idle:
            idle.send(EVENT)
            assert idle.answer(b"POST").status == 200
            removed = int(proxy.addresses[1].rpartition(":")[2])
            setup.change(listen=["127.0.0.1:0", "[::1]:0"])
            proxy.process.send_signal(signal.SIGHUP)
            events(proxy.process, "reloaded")
            added = events(proxy.process, "listening", 4)[3]["address"]
            assert added.startswith("[::1]:")
            assert exchange(("::1", int(added.rpartition(":")[2])), EVENT).status == 200
            assert exchange(proxy.address, EVENT).status == 200
            proxy.process.wait_until_refused("127.0.0.1", removed)
            assert not path.exists()
            idle.send(EVENT)
            answer = idle.answer(b"POST")
            assert (answer.status, answer.values("Connection")) == (200, [b"close"])
            assert idle.ended()
            stop(proxy.process)


@pytest.mark.parametrize("count", [1, 2])
def test_log_files_are_opened_again(count: int, tmp_path: Path) -> None:
    """As logrotate wants it: moved away, then a signal."""
    log, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    with RawUpstream() as upstream:
        setup = Setup(tmp_path, upstream, workers=count, more=f"[log]\naccess = '{log}'\n")
        with setup.running() as proxy:
            assert exchange(proxy.address, CLOSING).status == 200
            log.rename(moved)
            proxy.process.send_signal(signal.SIGHUP)
            events(proxy.process, "reloaded")
            assert exchange(proxy.address, CLOSING).status == 200
            stop(proxy.process)
    assert len(log.read_text().splitlines()) == len(moved.read_text().splitlines()) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_more_reloads_than_may_drain_wait(count: int, tmp_path: Path) -> None:
    with RawUpstream() as upstream:
        setup = Setup(tmp_path, upstream, workers=count)
        with setup.running() as proxy:
            idle = []
            for number in range(1, 4):
                idle.append(Client(proxy.address))
                idle[-1].send(EVENT)
                assert idle[-1].answer(b"POST").status == 200
                proxy.process.send_signal(signal.SIGHUP)
                events(proxy.process, "reloaded", number)
            proxy.process.send_signal(signal.SIGHUP)
            events(proxy.process, "reload_waits")
            setup.change(more="upstrem = 1\n")
            proxy.process.send_signal(signal.SIGHUP)
            events(proxy.process, "reload_failed")
            setup.change(more="")
            assert len(events(proxy.process, "reloaded", 3)) == 3
            idle[0].send(EVENT)
            assert idle[0].answer(b"POST").values("Connection") == [b"close"]
            events(proxy.process, "reloaded", 4)
            for client in idle:
                client.sock.close()
            stop(proxy.process)


def test_one_process_says_that_it_stays_one(tmp_path: Path) -> None:
    with RawUpstream() as upstream:
        setup = Setup(tmp_path, upstream, workers=1)
        with setup.running() as proxy:
            setup.change(workers=2)
            proxy.process.send_signal(signal.SIGHUP)
            assert events(proxy.process, "workers_unchanged")[0]["workers"] == 1
            assert exchange(proxy.address, EVENT).status == 200
            stop(proxy.process)


# Dying.


def test_a_killed_worker_is_replaced_while_the_others_go_on() -> None:
    with RawUpstream() as upstream, workers(upstream, 2) as proxy, Load(proxy.address) as load:
        load.wait_for_answers(100)
        before = proxy.process.children()
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        died = events(proxy.process, "worker_died")[0]
        assert (died["pid"], died["signal"], died["restart_in"]) == (victim, "SIGKILL", 1.0)
        broken = len(load.failures)
        assert broken <= load.size  # each client had at most one request there
        load.wait_for_answers(200)
        assert proxy.process.poll(lambda: len(proxy.process.children()) == 2)
        (successor,) = proxy.process.children() - before
        assert successor != victim
        load.wait_for_answers(200)
        met = load.stop()
        assert len(met.failures) <= load.size
        counters = stop(proxy.process)
    # At most what the killed one had counted in its last second is missing.
    assert met.answered - 400 <= counters["requests_total"] <= met.answered + len(met.failures)


def test_connections_do_not_wait_for_a_worker_that_is_down() -> None:
    """The other one accepts on its socket meanwhile."""
    with RawUpstream() as upstream, workers(upstream, 2) as proxy:
        for number in (1, 2):
            os.kill(min(proxy.process.children()), signal.SIGKILL)
            events(proxy.process, "worker_died", number)
            for _ in range(20):
                assert exchange(proxy.address, CLOSING).status == 200
            assert proxy.process.poll(lambda: len(proxy.process.children()) == 2)
        stop(proxy.process)


def test_workers_end_with_their_parent() -> None:
    with RawUpstream() as upstream, workers(upstream, 2) as proxy, Client(proxy.address) as idle:
        idle.send(EVENT)
        assert idle.answer(b"POST").status == 200
        endings = [os.pidfd_open(pid) for pid in proxy.process.children()]
        proxy.process.send_signal(signal.SIGKILL)
        assert idle.ended()
        proxy.process.wait_for_lines("parent_gone", 2)
        assert proxy.process.wait(PROMPT) == -signal.SIGKILL  # also the end of what the workers had open
        for ending in endings:
            with os.fdopen(ending):
                assert select.select([ending], [], [], PROMPT)[0]  # readable: that process has ended


# Stopping.


@contextmanager
def busy(count: int) -> Iterator[tuple[RunningProxy, list[Client], threading.Event]]:
    """Requests that wait for their answers, enough of them that every worker has some."""
    released = threading.Event()

    def late(_: Received) -> bytes:
        assert released.wait(60)
        return OK

    with ExitStack() as stack:
        upstream = stack.enter_context(RawUpstream(late))
        proxy = stack.enter_context(workers(upstream, count))
        stack.callback(released.set)
        clients = [stack.enter_context(Client(proxy.address)) for _ in range(20)]
        for client in clients:
            client.send(EVENT)
        for _ in clients:
            upstream.next_request()
        yield proxy, clients, released


def test_all_workers_drain() -> None:
    with busy(2) as (proxy, clients, released):
        pids = proxy.process.children()
        for pid in pids:
            os.kill(pid, signal.SIGTERM)  # as systemd does to all of a control group
        proxy.process.send_signal(signal.SIGTERM)
        events(proxy.process, "draining")
        proxy.process.wait_until_refused(*proxy.address)
        assert proxy.process.children() == pids
        released.set()
        for client in clients:
            answer = client.answer(b"POST")
            assert (answer.status, answer.values("Connection")) == (200, [b"close"])
            assert client.ended()
        assert proxy.process.wait(PROMPT) == 0
        assert events(proxy.process, "counters")[0]["requests_total"] == len(clients)


def test_generations_that_hand_over_stop_too() -> None:
    with busy(2) as (proxy, clients, released), Client(proxy.address) as idle:
        proxy.process.send_signal(signal.SIGHUP)
        events(proxy.process, "reloaded")
        assert len(proxy.process.children()) == 4
        proxy.process.send_signal(signal.SIGTERM)
        assert idle.ended()
        released.set()
        assert all(client.answer(b"POST").status == 200 for client in clients)
        assert proxy.process.wait(PROMPT) == 0


def test_a_second_signal_ends_all_at_once() -> None:
    with busy(2) as (proxy, clients, _):
        proxy.process.send_signal(signal.SIGTERM)
        events(proxy.process, "draining")
        proxy.process.send_signal(signal.SIGINT)
        assert proxy.process.wait(PROMPT) == 128 + signal.SIGINT
        assert {client.answer(b"POST").status for client in clients} == {503}
        events(proxy.process, "stopped_at_once")


# Not starting.


def test_a_second_proxy_on_the_same_port_is_refused() -> None:
    """Although both would share the port, had nobody asked."""
    with RawUpstream() as upstream, workers(upstream, 2) as proxy:
        command = servers.proxy_command(
            *("run", "--upstream", upstream.url, "--workers", "2", "--listen", proxy.authority)
        )
        with Process(command, env=servers.clean_environment()) as second:
            assert second.wait(PROMPT) == 1
        assert second.stderr[-1] == f"error: cannot listen on {proxy.authority}: Address already in use"
        assert exchange(proxy.address, EVENT).status == 200


def test_workers_that_cannot_start_are_one_clear_line(tmp_path: Path) -> None:
    path = f"{tmp_path}/none/access.log"
    command = servers.proxy_command(
        *("run", "--upstream", "http://127.0.0.1:9", "--workers", "2", "--listen", "127.0.0.1:0"),
        *("--access-log", path, "--error-log", "off"),
    )
    with Process(command, env=servers.clean_environment()) as process:
        assert process.wait(PROMPT) == 1
    assert process.stderr[-1] == f"error: {path}: No such file or directory"
