from __future__ import annotations

import io
import json
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from proxy import cli
from tests.support.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = ("explain", "--upstream", "http://127.0.0.1:9", "--trusted-proxies", "10.0.0.0/8", "--json")
EVENT = b"POST /e/ HTTP/1.1\nHost: a\nX-Forwarded-For: 203.0.113.7\n"


def said(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert cli.main([*COMMAND, *words]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def event(tmp_path: Path) -> str:
    file = tmp_path / "head"
    file.write_bytes(EVENT)
    return str(file)


def test_a_file(capsys: pytest.CaptureFixture[str], event: str) -> None:
    told = said(capsys, event, "--peer", "10.0.0.2")
    assert told["client"]["ip"] == "203.0.113.7"
    assert told["listener"] == "127.0.0.1:8000"


def test_exact_bytes(capsys: pytest.CaptureFixture[str], event: str) -> None:
    assert said(capsys, event, "--exact")["reason"] in ("bare_lf", "head_timeout")


def test_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(EVENT)))
    assert said(capsys)["client"]["ip"] == "127.0.0.1"


def test_curl_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND[:-1], "--curl", "curl http://a/metrics"]) == 0
    assert "is refused with 404 never_public" in capsys.readouterr().out


def test_a_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = {"method": "GET", "path": "/e", "host": "a", "peer": "10.0.0.9"}
    told = said(capsys, "--log-line", json.dumps(line))
    assert (told["peer"], told["route"]["name"]) == ("10.0.0.9", "/e")


def test_which_listener(capsys: pytest.CaptureFixture[str], event: str) -> None:
    listen = ("--listen", "127.0.0.1:81,127.0.0.1:82,unix:/run/x")
    assert said(capsys, event, *listen, "--listener", "127.0.0.1:82")["listener"] == "127.0.0.1:82"
    assert said(capsys, event, *listen, "--listener", "unix:/run/x", "--peer", "unix")["client"]["ip"] is None
    tcp = ("--set", 'listeners=[{address="127.0.0.1:83", mode="tcp", proxy_protocol=["127.0.0.1"]}]')
    assert said(capsys, event, *tcp, "--preface", "203.0.113.9")["outcome"] == "pass"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--peer", "nobody"), "--peer nobody: must be an IPv4 or IPv6 address"),
        (("--listener", "1.2.3.4:5"), "no such listener; there are: 127.0.0.1:8000"),
        (("--curl", "curl"), "there is no URL"),
    ],
)
def test_what_cannot_be_answered(
    words: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str], event: str
) -> None:
    assert cli.main([*COMMAND, event, *words]) == 2
    assert why in capsys.readouterr().err


def test_no_file_and_no_request(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main([*COMMAND, str(tmp_path / "none")]) == 2
    (tmp_path / "empty").write_bytes(b"\n")
    assert cli.main([*COMMAND, str(tmp_path / "empty")]) == 2
    assert "there is no request" in capsys.readouterr().err


def test_a_wrong_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, "--set", "limits.x=1"]) == 2
    assert "not a known key" in capsys.readouterr().err


def test_the_sample_in_the_docs_is_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    (curl,) = re.findall(r'--curl "(curl .*)"', page)
    upstream = ("--upstream", "http://posthog-web:8000", "--trusted-proxies", "10.0.0.0/8")
    assert cli.main(["explain", *upstream, "--peer", "10.0.0.2", "--curl", curl]) == 0
    assert without_ids(capsys.readouterr().out) in without_ids(page)


def without_ids(text: str) -> str:
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
