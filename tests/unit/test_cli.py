from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvloop

from proxy import cli
from proxy.config.reference import reference
from tests.support.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM = ("--upstream", "http://127.0.0.1:9")
TRUSTED = ("--trusted-proxies", "10.0.0.0/8")


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith("POSTHOG_PROXY_") or name in (
            "IS_BEHIND_PROXY",
            "TRUSTED_PROXIES",
            "ALLOWED_HOSTS",
        ):
            monkeypatch.delenv(name)


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_check_says_that_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    listen = ("--listen", "127.0.0.1:8000", "--listen", "[::1]:8000,unix:/run/x")
    routes = ("--set", 'routes=[{path = "/s*", upstream = "eu"}, {path = "/e"}]')
    assert (
        cli.main(["check", *listen, *UPSTREAM, *TRUSTED, *routes, "--set", "upstreams.eu.url=https://eu"])
        == 0
    )
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "configuration is valid",
        "listen: 127.0.0.1:8000, [::1]:8000, unix:/run/x",
        "upstream eu: https://eu",
        "upstream default: http://127.0.0.1:9",
        "route /s*: eu",
        "route /e: default",
        "trusted proxies: 10.0.0.0/8",
        "allowed hosts: *",
        "workers: 1",
    ]
    assert said.err == ""


@pytest.mark.parametrize(
    ("settings", "trusted"),
    [
        ([], "nobody"),
        (["trust.all=true"], "everybody"),
        (["trust.unix=yes", "trust.hops=2"], "Unix sockets, 2 hops"),
    ],
)
def test_check_says_who_is_trusted(
    settings: list[str], trusted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", *UPSTREAM, *(word for setting in settings for word in ("--set", setting))]) == 0
    assert f"trusted proxies: {trusted}\n" in capsys.readouterr().out


def test_check_says_where_the_spool_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spool = ("--spool", str(tmp_path), "--spool-mode", "first")
    assert cli.main(["check", *UPSTREAM, *spool]) == 0
    assert f"spool: {tmp_path} (first)" in capsys.readouterr().out.splitlines()


def test_check_says_how_many_workers_auto_means_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", *UPSTREAM, "--workers", "auto"]) == 0
    assert f"workers: {len(os.sched_getaffinity(0))}\n" in capsys.readouterr().out


def test_check_warns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IS_BEHIND_PROXY", "true")
    monkeypatch.setenv("TRUSTED_PROXIES", "10.0.0.0/8")
    assert cli.main(["check", *UPSTREAM]) == 0
    assert "warning: TRUSTED_PROXIES=10.0.0.0/8: PostHog compares" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["check", "run"])
def test_every_problem_is_a_line(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('[trust]\nproxis = ["10.0.0.1"]\n')
    monkeypatch.setenv("POSTHOG_PROXY_WORKERS", "none")
    assert cli.main([command, "--config", str(file), "--trusted-proxies", "10.0.0.1/8"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"error: {file}: trust.proxis = a list of 1: is not a known key (did you mean trust.proxies?)",
        (
            'error: POSTHOG_PROXY_WORKERS: workers = "none": '
            "must be a whole number of processes from 1 to 256, or `auto`"
        ),
        (
            'error: --trusted-proxies: trust.proxies = "10.0.0.1/8": has host bits set: '
            "the network is 10.0.0.0/8, the single address is 10.0.0.1"
        ),
        (
            "error: upstream = (nothing): no upstream is given: say --upstream http://HOST:PORT, "
            'set POSTHOG_PROXY_UPSTREAM, or write upstream = "http://HOST:PORT" in the file'
        ),
    ]


@pytest.mark.parametrize(
    ("flag", "value", "key"),
    [
        ("--listen", "x", "listen"),
        ("--upstream", "x", "upstream"),
        ("--trusted-proxies", "x", "trust.proxies"),
        ("--allowed-hosts", "x:1", "access.allowed_hosts"),
        ("--workers", "x", "workers"),
        ("--log-format", "x", "log.format"),
        ("--access-log", "x", "log.access"),
        ("--error-log", "x", "log.errors"),
    ],
)
def test_a_flag_is_named_with_its_key(
    flag: str, value: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", *UPSTREAM, flag, value]) == 2
    assert capsys.readouterr().err.startswith(f"error: {flag}: {key} = ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "workers"], "argument --set: 'workers' is not KEY=VALUE"),
        (["--workers", "2", "--set", "workers=3"], "argument --set: workers is given twice"),
        (["--set", "workers=2", "--set", "workers=3"], "argument --set: workers is given twice"),
        (["--work", "2"], "unrecognized arguments: --work 2"),
    ],
)
def test_a_wrong_command_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as failure:
        cli.main(["check", *UPSTREAM, *words])
    assert failure.value.code == 2
    assert said in capsys.readouterr().err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    said = capsys.readouterr().err
    for command in ("run", "check", "config-reference", "demo"):
        assert f"    {command}" in said


def test_the_version(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    metadata = tmp_path / "posthog_proxy-1.2.3.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: posthog-proxy\nVersion: 1.2.3\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "posthog-proxy 1.2.3\n"
    monkeypatch.setattr(sys, "path", [])
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "posthog-proxy (run from its source, not installed)\n"


def test_the_reference_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config-reference"]) == 0
    assert capsys.readouterr().out == reference()


def test_the_demo_reads_its_own_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as failure:
        cli.main(["demo", "--help"])
    assert failure.value.code == 0
    assert capsys.readouterr().out.startswith("usage: posthog-proxy demo ")


def test_an_address_that_is_taken(capsys: pytest.CaptureFixture[str], taken: str) -> None:
    assert cli.main(["run", *UPSTREAM, *TRUSTED, "--listen", taken]) == 1
    assert capsys.readouterr().err == f"error: cannot listen on {taken}: Address already in use\n"


def test_a_log_that_cannot_be_opened(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = f"{tmp_path}/none/access.log"
    listen = ("--listen", "127.0.0.1:0")
    assert cli.main(["run", *UPSTREAM, *TRUSTED, *listen, "--access-log", path]) == 1
    assert capsys.readouterr().err == f"error: {path}: No such file or directory\n"


def test_warnings_stand_on_standard_error_when_the_error_log_is_elsewhere(
    capsys: pytest.CaptureFixture[str], taken: str
) -> None:
    assert cli.main(["run", *UPSTREAM, "--listen", taken, "--error-log", "off"]) == 1
    warning, error = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: posthog.secure_ssl_redirect = true")
    assert error.startswith("error: cannot listen on")


def test_warnings_stand_once_in_the_error_log() -> None:
    argv = [sys.executable, "-m", "proxy", "run", *UPSTREAM, "--listen", "127.0.0.1:0"]
    with Process(argv) as process:
        process.wait_for_lines('"event":"listening"')
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    warnings = [line for line in process.stderr if "secure_ssl_redirect" in line]
    assert [json.loads(line)["event"] for line in warnings] == ["configuration"]


def test_the_exit_status_is_that_of_the_server() -> None:
    async def serving() -> int:
        return 143

    assert cli.run_until_stopped(serving()) == 143


def test_uvloop_runs_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.loop_factory() is uvloop.new_event_loop
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert cli.loop_factory() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_serves_until_it_is_told_to_stop(number: signal.Signals) -> None:
    argv = [sys.executable, "-m", "proxy", "run", *UPSTREAM, *TRUSTED, "--listen", "127.0.0.1:0"]
    with Process(argv) as process:
        [listening] = process.wait_for_lines(r'"event":"listening","address":"127\.0\.0\.1:(\d+)"')
        with socket.create_connection(("127.0.0.1", int(listening[1])), timeout=10):
            process.send_signal(number)
            assert process.wait() == 0
    assert not any(re.search("Traceback|warning", line) for line in process.stderr)


def test_several_workers_have_a_parent_that_says_why_it_cannot_start(
    capsys: pytest.CaptureFixture[str], taken: str
) -> None:
    assert cli.main(["run", *UPSTREAM, *TRUSTED, "--listen", taken, "--workers", "2"]) == 1
    assert capsys.readouterr().err == f"error: cannot listen on {taken}: Address already in use\n"


def test_the_parent_of_the_workers_has_no_event_loop() -> None:
    code = "import sys, proxy.cli, proxy.workers.parent, proxy.config.sources; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"asyncio", "ssl", "h11", "uvloop", "proxy.server"}


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = "import sys, proxy.cli as c; c.main(['check', '--upstream', 'http://x']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "proxy.config.load" in modules
    assert not modules & {"asyncio", "ssl", "h11", "uvloop", "difflib", "proxy.server", "importlib.metadata"}


def test_check_says_where_operators_ask(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", *UPSTREAM, *TRUSTED, "--set", "admin.listen=unix:/run/admin.sock"]) == 0
    assert "admin: unix:/run/admin.sock" in capsys.readouterr().out.splitlines()


class TestTop:
    """Where it asks; what it shows is tests/unit/test_top.py's."""

    def run(self, *words: str) -> int:
        return cli.main(["top", *words, "--once"])

    def test_the_address_of_the_configuration_is_asked(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert self.run(*UPSTREAM, "--set", f"admin.listen=unix:{tmp_path}/a.sock") == 1
        assert f"{tmp_path}/a.sock" in capsys.readouterr().out.replace("\n", "")

    def test_an_address_needs_no_configuration(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run("127.0.0.1:1") == 1
        assert "127.0.0.1:1" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (UPSTREAM, "admin.listen is not set"),
            ((), "no upstream is given"),
            (("nonsense",), "'nonsense' must"),
            (("127.0.0.1:1", "--token-file", "/proc/absent"), "/proc/absent: "),
            (("127.0.0.1:1", "--token-file", os.devnull), "must hold a token"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(*words) == 2
        assert said in capsys.readouterr().err

    def test_without_rich_it_says_what_to_install(self) -> None:
        script = (
            "import sys\nsys.modules['rich'] = None\nfrom proxy import cli\n"
            "sys.exit(cli.main(['top', '127.0.0.1:1']))"
        )
        found = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert found.returncode == 1
        assert found.stderr == "error: rich is missing: pip install 'posthog-proxy[top]'\n"
