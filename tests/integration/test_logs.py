"""Log files under the real logrotate, lines to a real syslog socket, what is left out and what never is, and
headers that tie logs together, on their way through."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import servers
from tests.support.curl import curl
from tests.support.parts import find
from tests.support.ports import free_port
from tests.support.process import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("curl")

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def standin() -> Iterator[str]:
    with servers.standin() as url:
        yield url


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.needs("logrotate")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_files_go_on_anew_after_logrotate(standin: str, workers: str, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    access = logs / "access.log"
    words = ("--access-log", access, "--set", f"log.errors={logs / 'error.log'}", "--workers", workers)
    # The addresses are told in a file here: listening() reads standard error.
    port = free_port()
    argv = servers.proxy_command("run", "--upstream", standin, "--listen", f"127.0.0.1:{port}", *words)
    with servers.Process(argv, name="proxy", env=servers.clean_environment()) as proxy:
        assert proxy.poll(lambda: is_served(port))
        shipped = (ROOT / "systemd" / "posthog-proxy.logrotate").read_text()
        config = re.sub(r"systemctl kill .*", f"kill -USR1 {proxy.pid}", shipped)
        (tmp_path / "conf").write_text(config.replace("/var/log/posthog-proxy", str(logs)))
        (tmp_path / "conf").chmod(0o644)
        for count in (1, 2):
            for number in range(3):
                assert curl(f"http://127.0.0.1:{port}/flags/?n={count}{number}").status == 200
            expected = 3 * count + 1 if count == 1 else 3
            assert proxy.poll(lambda expected=expected: len(lines(access)) == expected)
            if count == 1:
                command = [find("logrotate"), "-f", "-s", tmp_path / "state", tmp_path / "conf"]
                subprocess.run(command, check=True, capture_output=True)
                assert proxy.poll(access.exists)
        assert len(lines(logs / "access.log.1")) == 4
    assert lines(logs / "error.log.1")
    assert lines(logs / "error.log")[-1]["event"] == "stopped"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_files_that_cannot_be_made_anew_are_told(standin: str, workers: str, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    words = ("--access-log", folder / "access.log", "--workers", workers)
    with servers.posthog_proxy(standin, *words) as proxy:
        folder.rename(tmp_path / "moved")
        proxy.process.send_signal(signal.SIGUSR1)
        (told, *_) = proxy.process.wait_for_lines('"event":"logs_not_reopened"')
        assert {"detail", "cure"} <= json.loads(told.string).keys()
        assert curl(f"http://{proxy.authority}/flags/").status == 200
        assert proxy.process.poll(lambda: len(lines(tmp_path / "moved" / "access.log")) == 1)
        (tmp_path / "moved").rename(folder)
        proxy.process.send_signal(signal.SIGUSR1)
        # The parent of two has no file of its own here.
        proxy.process.wait_for_lines('"event":"logs_reopened"', 1 if workers == "1" else 4)


def is_served(port: int) -> bool:
    return curl(f"http://127.0.0.1:{port}/_health").status == 200


def test_syslog_by_udp(standin: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(10)
        where = f"syslog:127.0.0.1:{daemon.getsockname()[1]}"
        with servers.posthog_proxy(standin, "--access-log", where) as proxy:
            assert curl(f"{proxy.url}/flags/").status == 200
            datagram = daemon.recv(65_536)
    assert datagram.startswith(b"<30>1 20")
    assert json.loads(datagram.partition(b" - - ")[2])["path"] == "/flags/"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_journald_is_told_priorities(standin: str, workers: str) -> None:
    with servers.posthog_proxy(standin, "--access-log", "journald", "--workers", workers) as proxy:
        assert curl(f"{proxy.url}/flags/").status == 200
        proxy.process.wait_for_lines(r'^<6>\{"ts":.*"path":"/flags/"')


def test_what_is_left_out_and_what_never_is(standin: str) -> None:
    words = ("--set", "log.sample=0")
    with servers.posthog_proxy(standin, *words) as proxy:
        for path in ("/flags/", "/_health", "/metrics", "/flags/"):
            curl(f"{proxy.url}{path}")
        [line] = proxy.access_log(1)
        assert (line["path"], line["status"]) == ("/metrics", 404)


def test_a_slow_request_is_told_with_its_cure(standin: str) -> None:
    with servers.posthog_proxy(standin, "--set", "log.slow=0.001", "--set", "log.sample=0") as proxy:
        curl(f"{proxy.url}/flags/")
        [line] = proxy.process.wait_for_lines(r'"event":"slow_request"')
        told = json.loads(line.string)
        [logged] = proxy.access_log(1)
        assert told["request_id"] == logged["request_id"]
        assert told["cure"].startswith("look at the upstream, or raise log.slow")


@pytest.mark.parametrize("fast", ["true", "false"])
def test_traceparent_passes_untouched_and_the_request_id_goes_upstream(standin: str, fast: str) -> None:
    with servers.posthog_proxy(standin, "--set", f"fast_path={fast}") as proxy:
        answer = curl(
            *("-H", f"traceparent: {TRACE}", "-H", "tracestate: congo=t61rcWkgMzE"),
            f"{proxy.url}/__standin__/echo",
        )
        sent = {name.lower(): value for name, value in json.loads(answer.body)["fields"]}
        assert (sent["traceparent"], sent["tracestate"]) == (TRACE, "congo=t61rcWkgMzE")
        [line] = proxy.access_log(1)
        assert sent["x-request-id"] == line["request_id"]
