"""`python -m proxy.standin`: the stand-in as a process of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

from proxy.standin.__main__ import main

if TYPE_CHECKING:
    import pytest


def test_it_says_when_it_is_ready_and_ends_at_sigterm() -> None:
    command = [sys.executable, "-m", "proxy.standin", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        word, url = process.stdout.readline().split()
        assert word == "ready"
        with urllib.request.urlopen(f"{url}/_health", timeout=10) as answer:
            assert answer.read() == b"ok"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_an_address_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["--listen", f"127.0.0.1:{taken.getsockname()[1]}"]) == 1
    assert "cannot listen on" in capsys.readouterr().err


def test_an_address_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--listen", "8000"]) == 1
    assert "cannot listen on 8000" in capsys.readouterr().err
