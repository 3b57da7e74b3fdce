from __future__ import annotations

import json
import shlex
import subprocess

import pytest

from proxy.explain.asking import AskingError, from_curl, from_head, from_log
from proxy.observe.log import AccessRecord, encode_json
from tests.support.parts import find
from tests.support.services import services

AS_TOLD = (
    b"PUT / HTTP/1.0\r\nHost: b\r\nAuthorization: Basic YTpi\r\nUser-Agent: me\r\nReferer: r\r\n"
    b"Cookie: c=d\r\n\r\n"
)
DEFAULTS = b"User-Agent: curl\r\nAccept: */*\r\n"


def test_a_text_file_becomes_a_head() -> None:
    assert from_head(b"GET / HTTP/1.1\nHost: a\n").raw == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert from_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").raw == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("blank", [b"\n\n", b"\r\n\r\n"])
def test_a_body_stays_as_it_is(blank: bytes) -> None:
    assert from_head(b"POST / HTTP/1.1" + blank + b"a\nb").raw == b"POST / HTTP/1.1\r\n\r\na\nb"


def test_exact_bytes_are_not_touched() -> None:
    assert from_head(b"GET / HTTP/1.1\n\n", exact=True).raw == b"GET / HTTP/1.1\n\n"


@pytest.mark.parametrize(
    ("command", "raw", "tls"),
    [
        (
            "curl https://ph.example/e/?a=1 -H 'X-A: b' -d '{}' -d x --compressed",
            b"POST /e/?a=1 HTTP/1.1\r\nHost: ph.example\r\n"
            + DEFAULTS
            + b"X-A: b\r\nContent-Length: 4\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n{}&x",
            True,
        ),
        (
            "curl -X PUT \\\n -Hhost:b --header='Accept:' 'http://a:81' -A me -e r -b c=d -u a:b -0 -s -o x",
            AS_TOLD,
            False,
        ),
        (
            "curl -I --url a/b",
            b"HEAD /b HTTP/1.1\r\nHost: a\r\n" + DEFAULTS + b"\r\n",
            False,
        ),
    ],
)
def test_a_curl_command_is_what_curl_sends(command: str, raw: bytes, tls: bool) -> None:
    question = from_curl(command)
    assert (question.raw, question.tls) == (raw, tls)


@pytest.mark.parametrize(
    "words",
    [
        ["-H", "X-A: b", "-H", "Accept:", "-A", "me", "--data", "x=1"],
        ["-u", "a:b", "-e", "r", "-b", "c=d", "-H", "host: b", "-A", "me"],
        ["-A", "me", "-d", "{}", "-H", "Content-Type: application/json", "-H", "accept: a"],
        ["-A", "me", "-X", "POST"],
    ],
)
def test_curl_itself_sends_the_same(words: list[str]) -> None:
    with services("web") as running:
        words = ["-s", *words, f"{running['web'].url}/e/?a=1"]
        said = subprocess.run([find("curl"), *words], check=True, capture_output=True, text=True).stdout
    raw = from_curl(shlex.join(["curl", *words])).raw.decode()
    lines = [f"{name}: {value}" for name, value in json.loads(said)["fields"]]
    assert raw.partition("\r\n\r\n")[0].split("\r\n")[1:] == lines


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("curl 'a", "not a command line"),
        ("curl -s", "there is no URL"),
        ("curl ftp://a", "ftp is not http"),
        ("curl -F a=b http://a", "-F is not understood"),
        ("curl http://a -H", "-H needs a value"),
    ],
)
def test_a_command_that_cannot_be_read(command: str, why: str) -> None:
    with pytest.raises(AskingError, match=why):
        from_curl(command)


def test_a_line_of_the_access_log() -> None:
    record = AccessRecord(
        method=b"POST",
        host=b"ph.example",
        target=b"/e/?a=1",
        peer="10.0.0.2",
        client_ip="203.0.113.7",
        client_ip_source="x_forwarded_for",
        user_agent=b"me",
        tls_version="TLSv1.3",
    )
    question = from_head(encode_json(record))
    assert question.raw == (
        b"POST /e/ HTTP/1.1\r\nHost: ph.example\r\nUser-Agent: me\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n"
    )
    assert (question.peer, question.tls) == ("10.0.0.2", True)
    assert "query" in question.left_out


@pytest.mark.parametrize("line", ["", "[]", "{}", "x"])
def test_no_line_of_the_access_log(line: str) -> None:
    with pytest.raises(AskingError, match="no line of the access log"):
        from_log(line)
