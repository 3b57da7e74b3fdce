"""What `init` finds out."""

from __future__ import annotations

import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.config.notation import alias_prefix
from proxy.setup import facts
from proxy.setup.plan import CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_the_program_is_the_one_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "posthog-proxy"
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert facts.program() == (str(program),)
    monkeypatch.setattr(sys, "argv", ["posthog-proxy"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert facts.program() == (str(program),)
    monkeypatch.setattr(sys, "argv", [str(Path(facts.__file__).parents[1] / "__main__.py")])
    assert facts.program() == (sys.executable, "-P", "-m", "proxy")


def test_the_date() -> None:
    assert facts.today().year >= 2025


def test_links_are_followed_to_what_a_service_has_to_see(tmp_path: Path) -> None:
    program = tmp_path / "posthog-proxy"
    program.symlink_to("/bin/true")
    needed = facts.needed_paths([str(program)])
    assert needed[0] == os.path.realpath("/bin/true")
    assert os.path.realpath(sys.prefix) in needed
    assert os.path.realpath(facts.__file__) in needed


class _Answers(BaseHTTPRequestHandler):
    body = b"ok"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


class _Other(_Answers):
    body = b"hello"


@pytest.fixture(params=[(_Answers, True), (_Other, False)], ids=["posthog", "other"])
def neighbour(request: pytest.FixtureRequest) -> Iterator[tuple[tuple[str, int], bool]]:
    handler, is_posthog = request.param
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield ("127.0.0.1", server.server_port), is_posthog
        server.shutdown()
        thread.join()


def test_posthog_is_found_by_its_health(neighbour: tuple[tuple[str, int], bool]) -> None:
    place, is_posthog = neighbour
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        found = facts.find_posthog([nobody.getsockname(), place])
    assert found == (f"http://127.0.0.1:{place[1]}" if is_posthog else None)


def test_an_alias_is_kept_and_a_new_one_is_nobody_elses(tmp_path: Path) -> None:
    first, second = (facts.alias_of(tmp_path, ["example.com"]) for _ in range(2))
    assert first != second
    assert alias_prefix(first) == first
    path = facts.below(tmp_path, CONFIG)
    path.parent.mkdir(parents=True)
    path.write_text("[aliases]\nprefix = '/mine'\n")
    assert facts.alias_of(tmp_path, []) == "/mine"


@pytest.mark.parametrize("text", ["aliases = 3", "[aliases]", "[aliases]\nprefix = 'x'", "[aliases", "\xff"])
def test_what_is_no_alias_gives_way(tmp_path: Path, text: str) -> None:
    path = facts.below(tmp_path, CONFIG)
    path.parent.mkdir(parents=True)
    path.write_text(text, "latin-1")
    assert facts.alias_of(tmp_path, []).startswith("/")
    assert facts.alias_of(tmp_path, []) != "/x"


def test_a_port_that_somebody_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        mine = f"127.0.0.1:{server.getsockname()[1]}"
        assert facts.taken([mine, "127.0.0.1:0", "[::1]:0", "unix:/run/x"]) == [mine]


def test_a_port_that_is_not_ours_to_try_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(socket.socket, "bind", bind)
    assert facts.taken(["127.0.0.1:80"]) == []


def test_enabled_units_are_in_use(tmp_path: Path) -> None:
    assert facts.in_use(tmp_path) == []
    wants = tmp_path / "etc/systemd/system/sockets.target.wants"
    wants.mkdir(parents=True)
    (wants / "posthog-proxy.socket").symlink_to("/etc/systemd/system/posthog-proxy.socket")
    assert facts.in_use(tmp_path) == ["posthog-proxy.socket"]


def test_active_units_are_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text('#!/bin/sh\ncase "$*" in *is-active*service) exit 0 ;; esac\nexit 3\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert facts.in_use(Path("/")) == ["posthog-proxy.service"]
    assert facts.in_use(tmp_path) == []
