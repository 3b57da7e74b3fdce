"""The benchmark in its shortest form: it measures, says what it measured, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.loads import BY_NAME, Load, Origin, requests
from benchmarks.loads.client import ask, connect
from benchmarks.loads.steady import arrivals
from benchmarks.machine import choose_cores, family, raise_descriptor_limit
from benchmarks.needs import extend_path
from benchmarks.origins import start_origin
from benchmarks.origins.answers import answer_to
from benchmarks.peers import OTHERS, SPOOLING, WATCHING, Ours, Setting
from benchmarks.process import LOOPBACK, run
from tests.support.process import Process
from tests.support.servers import clean_environment
from tests.support.wire import RawUpstream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.peers import Peer

OURS = Ours("ours", Path(sys.executable))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    extend_path()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may read: nginx's worker is another user where its master is root."""
    with TemporaryDirectory() as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


def benchmark(*arguments: str | Path, folder: Path) -> Process:
    argv = [sys.executable, "-m", "benchmarks.run", "--warm-up", "0", *arguments]
    return Process(argv, name="benchmark", env=clean_environment(TMPDIR=str(folder)))


@pytest.mark.needs("nginx", "wrk")
def test_a_short_run(tmp_path: Path) -> None:
    found, folder = tmp_path / "found.json", tmp_path / "temporary"
    folder.mkdir()
    arguments = ["--loads", "ingest,upload", "--peers", "nginx,ours", "--rounds", "1", "--seconds", "1"]
    with benchmark(*arguments, "--json", found, folder=folder) as running:
        assert running.wait(60) == 0, running.report()
        printed = "\n".join(running.stdout)
    results = json.loads(found.read_text())
    assert [(sample["load"], sample["peer"]) for sample in results["samples"]] == [
        ("ingest", "nginx"),
        ("ingest", "ours"),
        ("upload", "nginx"),
        ("upload", "ours"),
    ]
    for sample in results["samples"]:
        assert sample["troubles"] == {}
        assert sample["requests"] > 10
        assert sample["cpu"] > 1
    for sample in results["steady"]:
        assert sample["troubles"] == {}
        assert sample["requests"] > 10
        assert 0 < sample["p50"] <= sample["p99"]
    assert {footprint["peer"]: footprint["log"] > 50 for footprint in results["footprints"]} == {
        "nginx": True,
        "ours": True,
    }
    assert results["versions"]["nginx"].startswith("nginx version")
    assert "Python 3" in results["versions"]["ours"]
    assert "keepalive" in results["configs"]["ingest"]["nginx"]
    for heading in ("Processor time per request", "Requests a second", "Latency", "Memory"):
        assert f"## {heading}" in printed
    assert list(folder.iterdir()) == []


@pytest.mark.needs("nginx", "wrk")
def test_delivering_is_part_of_the_work(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    arguments = ["--loads", "ingest", "--peers", "fallback,first", "--rounds", "1", "--seconds", "1"]
    with benchmark(*arguments, "--rate", "300", "--json", found, folder=tmp_path) as running:
        assert running.wait(90) == 0, running.report()
        assert "## Processor time per request at that rate" in running.stdout
    results = json.loads(found.read_text())
    measured = [*results["samples"], *results["steady"]]
    assert [each["peer"] for each in measured] == ["fallback", "first"] * 2
    assert all(each["troubles"] == {} and each["requests"] > 100 for each in measured)
    assert {each["rate"] for each in results["steady"]} == {300}
    assert results["configs"]["ingest"]["first"].endswith("--spool-mode first")


@pytest.mark.needs("nginx", "wrk")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_everything_ends_with_the_benchmark(number: signal.Signals, tmp_path: Path) -> None:
    arguments = ["--loads", "ingest", "--peers", "nginx,ours", "--seconds", "60"]
    with benchmark(*arguments, folder=tmp_path) as running, ExitStack() as stack:
        assert running.poll(lambda: "wrk" in commands(family(running.pid)))
        started = family(running.pid)[1:]
        assert commands(started).count("nginx") == 4  # origin and proxy, each with its worker
        ends = [stack.enter_context(open(os.pidfd_open(pid), "rb")) for pid in started]
        running.send_signal(number)
        running.wait()
        for end in ends:
            assert select.select([end], [], [], 20)[0]  # readable: the process has ended
    if number is not signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []


def commands(pids: Sequence[int]) -> list[str]:
    return [Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids]


# --- the parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "peer",
    [pytest.param(peer, marks=pytest.mark.needs(*peer.programs)) for peer in OTHERS]
    + [OURS, *WATCHING, *SPOOLING],
)
@pytest.mark.parametrize("trusted", [False, True])
def test_all_peers_tell_the_upstream_the_same(peer: Peer, trusted: bool, folder: Path) -> None:
    """A comparison of processor time is only one of proxies that do the same work."""
    chain = "203.0.113.9, 198.18.0.7, 10.1.2.3" if peer.name != "caddy" else "198.18.0.7"
    request = (
        f"GET /flags?v=2 HTTP/1.1\r\nX-Forwarded-For: {chain}\r\nX-Forwarded-Proto: https\r\n"
        "Host: Ph.Example.com\r\n\r\n"
    )
    with RawUpstream() as upstream, ExitStack() as stack:
        cores = choose_cores()
        setting = Setting(upstream.port, trusted, 64, raise_descriptor_limit(), folder, cores.peer)
        running = peer.start(setting)
        stack.enter_context(running.child)
        with connect(running.address) as connection:
            assert ask(connection, request.encode()).status == 200
        got = upstream.next_request()
    said = {name: got.values(f"X-Forwarded-{name}") for name in ("For", "Proto", "Host", "Port")}
    client = b"198.18.0.7" if trusted else b"127.0.0.1"
    if peer.name == "caddy" and trusted:
        client += b", 127.0.0.1"  # it appends to what a trusted peer says
    assert said == {
        "For": [client],
        "Proto": [b"https" if trusted else b"http"],
        "Host": [b"Ph.Example.com" if peer.name == "caddy" else b"ph.example.com"],
        "Port": [b"443" if trusted else b"%d" % running.address[1]],
    }
    assert got.values("Host") == [b"Ph.Example.com"]
    assert len(got.values("X-Request-Id")) == 1
    assert got.start_line == b"GET /flags?v=2 HTTP/1.1"


@pytest.mark.parametrize(
    ("peer", "logged", "counted"), list(zip(WATCHING, (3, 0, 0), (3, 3, 0), strict=True))
)
def test_what_watches_is_taken_out(peer: Peer, logged: int, counted: int, folder: Path) -> None:
    """The difference between them is the price of watching: neither may do what it is to be without."""
    with RawUpstream() as upstream:
        setting = Setting(upstream.port, False, 64, raise_descriptor_limit(), folder, choose_cores().peer)
        running = peer.start(setting)
        with running.child, connect(running.address) as connection:
            for _ in range(3):
                request = b"POST /e/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
                assert ask(connection, request).status == 200
            running.child.stop()
    said = [json.loads(line) for line in running.child.err.read_text().splitlines()]
    (counters,) = [each for each in said if each["event"] == "counters"]
    assert counters["requests_total"] == counters["fast_path_total"] == counted
    assert counters["requests_in_flight"] == 0
    assert (running.log.read_bytes().count(b"\n") if running.log.exists() else 0) == logged


@pytest.mark.parametrize(
    "peer",
    [pytest.param(peer, marks=pytest.mark.needs(*peer.programs)) for peer in OTHERS if peer.relays] + [OURS],
)
def test_all_relays_change_nothing(peer: Peer, folder: Path) -> None:
    request = b"GET /flags?v=2 HTTP/1.1\r\nHOST: Ph.Example.com\r\nX-Odd:  x\r\n\r\n"
    with RawUpstream() as upstream, ExitStack() as stack:
        cores = choose_cores()
        descriptors = raise_descriptor_limit()
        setting = Setting(upstream.port, False, 64, descriptors, folder, cores.peer, tcp=True)
        running = peer.start(setting)
        stack.enter_context(running.child)
        with connect(running.address) as connection:
            assert ask(connection, request).status == 200
        assert upstream.next_request().message.head == request


@pytest.mark.parametrize(
    "origin", [pytest.param(Origin.NGINX, marks=pytest.mark.needs("nginx")), Origin.READER]
)
@pytest.mark.parametrize("name", ["flags", "app", "script", "download", "ingest"])
def test_both_origins_answer_from_the_table(origin: Origin, name: str, folder: Path) -> None:
    load = replace(BY_NAME[name], origin=origin)
    with ExitStack() as stack:
        port = start_origin(load, folder, choose_cores().load, raise_descriptor_limit(), stack)
        connection = stack.enter_context(connect((LOOPBACK, port)))
        for request in requests.distinct(load.make, 5):
            reply = ask(connection, request)
            answer = answer_to(request.split(b" ", 2)[1].decode())
            assert (reply.status, reply.body) == (200, answer.body)
            for field, value in answer.fields:
                assert f"\r\n{field}: {value}\r\n".lower() in reply.head.decode().lower()


def test_the_reader_answers_after_its_delay(folder: Path) -> None:
    load = replace(BY_NAME["slow"], connections=20, delay=0.05)
    outcome = generated("bulk", "1", load, folder)
    assert outcome["p50"] >= 50_000
    assert outcome["requests"] > 20


def test_the_generators_count_what_they_send(folder: Path) -> None:
    outcome = generated("steady", "300", replace(BY_NAME["mixed"], connections=8, distinct=50), folder)
    assert outcome["troubles"] == {}
    assert outcome["answered"] == len(arrivals(300, 1))
    assert 0 < outcome["counted"] < outcome["answered"]


def generated(generator: str, rate: str, load: Load, folder: Path) -> dict[str, Any]:
    """Run a generator of ours for a second straight at the reader."""
    core = choose_cores().load
    requests.write(requests.distinct(load.make, min(50, load.distinct)), folder / "requests")
    with ExitStack() as stack:
        port = start_origin(load, folder, core, raise_descriptor_limit(), stack)
        argv = [sys.executable, "-m", f"benchmarks.loads.{generator}", LOOPBACK, str(port)]
        argv += [rate, "1"] if generator == "steady" else ["1"]
        said: dict[str, Any] = json.loads(
            run([*argv, str(load.connections), str(folder / "requests")], core=core, timeout=30)
        )
    return said


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("mode", ["fallback", "first"])
def test_a_short_outage(mode: str, tmp_path: Path) -> None:
    """`make outage` in small; its exit status says whether anything was lost or refused."""
    words = ["--rate", "200", "--seconds", "2", "--before", "1", "--mode", mode]
    tmp_path.chmod(0o755)
    argv = [sys.executable, "-m", "benchmarks.outage", *words, "--directory", str(tmp_path)]
    with Process(argv, name="outage", env=clean_environment()) as process:
        assert process.wait(120) == 0, process.report()
        said = "\n".join(process.stdout)
    assert re.search(r"outage +\d+ answers +p50 .* ms", said)
    assert re.search(r"[1-9]\d\d waited when it was back", said)
    assert re.search(r"answered, 0 not with 200; 0 of the others have not arrived", said)
    assert not list(tmp_path.iterdir())


def test_what_the_spool_costs(tmp_path: Path) -> None:
    words = ["--rate", "300", "--seconds", "0.5", "--directory", str(tmp_path)]
    with Process([sys.executable, "-m", "benchmarks.spool", *words], name="benchmark") as process:
        assert process.wait() == 0, process.report()
        said = "\n".join(process.stdout)
    assert re.search(r"appended 15\d at 300/s, refused 0; .* µs CPU each", said)
    assert re.search(r"acknowledged after p50 .* p99 .* ms", said)
    assert re.search(r"read and deleted 15\d at \d+/s", said)
    assert not list(tmp_path.iterdir())
