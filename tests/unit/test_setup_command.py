"""The command line of `init`."""

from __future__ import annotations

import datetime
import socket
from typing import TYPE_CHECKING

import pytest

from proxy import cli
from proxy.setup import command, facts, files
from proxy.setup.plan import CONFIG, SERVICE, SOCKET

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Init = Callable[..., tuple[int, str, str]]

CLOUD = ("--preset", "posthog-cloud-us", "--listen", "127.0.0.1:0")


@pytest.fixture
def init(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Init:
    """Run it below a folder; exit status, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(["init", "--root", str(tmp_path), *arguments])
        return status, *capsys.readouterr()

    return run


def test_it_writes_and_says_what_is_next_and_takes_it_away(init: Init, tmp_path: Path) -> None:
    status, said, _ = init(*CLOUD, "--behind", "cloudflare, 10.0.0.0/8", "--host", "e.example.com")
    assert status == 0
    assert [f"wrote {tmp_path}{path}" for path in (CONFIG, SERVICE, SOCKET)] == said.splitlines()[:3]
    assert "systemctl enable --now" in said
    assert "https://e.example.com/" in said
    assert 'behind = ["cloudflare", "10.0.0.0/8"]' in (tmp_path / CONFIG[1:]).read_text()
    status, said, _ = init("--uninstall")
    assert status == 0
    assert f"removed {tmp_path}{SERVICE}\n" in said
    assert list(tmp_path.iterdir()) == []


def test_twice_is_once(init: Init, tmp_path: Path) -> None:
    init(*CLOUD)
    text = (tmp_path / CONFIG[1:]).read_text()
    status, said, _ = init(*CLOUD)
    assert status == 0
    assert said.count("unchanged ") == 3
    assert (tmp_path / CONFIG[1:]).read_text() == text


def test_it_writes_over_nothing_unless_forced(init: Init, tmp_path: Path) -> None:
    init(*CLOUD)
    config = tmp_path / CONFIG[1:]
    config.write_text("mine")
    assert init(*CLOUD) == (1, "", f"error: {CONFIG} is there already; --force writes over it\n")
    status, said, _ = init("--uninstall")
    assert status == 0
    assert f"kept {config}: it was changed since (--force removes it)" in said
    assert init(*CLOUD, "--force")[0] == 0
    assert "posthog-cloud-us" in config.read_text()


def test_what_cannot_be_is_named(init: Init, tmp_path: Path) -> None:
    status, _, said = init("--preset", "posthog-cloud-uk")
    assert status == 2
    assert said.startswith('error: init: preset = "posthog-cloud-uk"')
    assert list(tmp_path.iterdir()) == []


def test_posthog_on_the_same_host_need_not_be_named(init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "find_posthog", lambda: "http://127.0.0.1:8000")
    status, said, _ = init("--behind", "nginx", "--listen", "127.0.0.1:0")
    assert status == 0
    assert said.startswith("PostHog answers on http://127.0.0.1:8000\n")


def test_posthog_that_is_nowhere_is_asked_for(init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "find_posthog", lambda: None)
    status, _, said = init("--preset", "self-hosted")
    assert status == 2
    assert "where does PostHog run?" in said


def test_warnings(init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "today", lambda: datetime.date(2040, 1, 1))
    with socket.create_server(("127.0.0.1", 0)) as server:
        mine = f"127.0.0.1:{server.getsockname()[1]}"
        status, said, _ = init("--preset", "posthog-cloud-us", "--behind", "gcp", "--listen", mine)
    assert status == 0
    assert f"warning: something listens on {mine} already" in said
    assert said.count("warning: ") == 2


def test_a_program_that_the_service_could_not_see(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(facts, "needed_paths", lambda words: ["/home/me/venv"])
    assert command.main(CLOUD) == 1
    said = capsys.readouterr().err
    assert "a service cannot see /home/me/venv" in said
    assert "/opt/posthog-proxy" in said


def test_units_in_use_are_not_removed(init: Init, tmp_path: Path) -> None:
    init(*CLOUD)
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir()
    (wants / "posthog-proxy.service").symlink_to(SERVICE)
    status, _, said = init("--uninstall")
    assert status == 1
    assert "systemctl disable --now" in said
    assert (tmp_path / SERVICE[1:]).exists()
    assert "already" not in init(*CLOUD)[1]  # the port is its own then
    assert init("--uninstall", "--force")[0] == 0


def test_there_is_nothing_to_remove(init: Init) -> None:
    assert init("--uninstall") == (1, "", "error: init has written nothing here\n")


def test_what_the_system_refuses(init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/etc/x")

    monkeypatch.setattr(files, "write", full)
    status, _, said = init(*CLOUD)
    assert status == 1
    assert "No space left on device" in said
