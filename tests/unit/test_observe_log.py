"""Log lines: what they hold, what they never hold, and how batches reach their sink."""

from __future__ import annotations

import json

import pytest

from proxy.config.schema import LogFormat, LogLevel
from proxy.errors import Failure, Source
from proxy.observe.log import (
    MAX_EVENT_TEXT,
    MAX_TEXT,
    AccessRecord,
    BatchedLog,
    Cause,
    Phase,
    cause_of,
    encode_json,
    encode_text,
    error_line,
    is_kept,
    logged_path,
    masked,
    sdk_of,
    termination,
)

TOKEN = "phc_Vt3mX9kQeYw2LrB7NsHd4ZpA6uJgTcF1"


def record(**values: object) -> AccessRecord:
    made = AccessRecord(
        ts=1764057302.125,
        request_id="0b5e8f3c-0000-4000-8000-000000000001",
        listener="127.0.0.1:8000",
        client_ip="203.0.113.7",
        peer="10.0.0.2",
        client_ip_source="x_forwarded_for",
        trusted_hops=1,
        method=b"POST",
        host=b"app.example.com",
        target=b"/e/?_=1&ver=1.449.0",
        route="/e",
        cls="ingest_v0",
        upstream="default",
        upstream_addr="10.0.0.9:8001",
        status=200,
        upstream_status=200,
        origin="upstream",
        bytes_in=1204,
        bytes_out=15,
        t_head=0.0001,
        t_body=0.0,
        t_queue=0.0,
        t_connect=None,
        t_first_byte=0.0123456789,
        t_total=0.013,
        reused=True,
        tls_version="TLSv1.3",
        sni="app.example.com",
        user_agent=b"Mozilla/5.0",
    )
    for name, value in values.items():
        setattr(made, name, value)
    return made


class TestJson:
    def test_the_whole_line(self) -> None:
        line = encode_json(record())
        assert line.endswith(b"}\n")
        assert json.loads(line) == {
            "ts": 1764057302.125,
            "request_id": "0b5e8f3c-0000-4000-8000-000000000001",
            "listener": "127.0.0.1:8000",
            "client_ip": "203.0.113.7",
            "peer": "10.0.0.2",
            "client_ip_source": "x_forwarded_for",
            "trusted_hops": 1,
            "method": "POST",
            "host": "app.example.com",
            "path": "/e/",
            "route": "/e",
            "class": "ingest_v0",
            "upstream": "default",
            "upstream_addr": "10.0.0.9:8001",
            "status": 200,
            "upstream_status": 200,
            "origin": "upstream",
            "bytes_in": 1204,
            "bytes_out": 15,
            "t_head": 0.0001,
            "t_body": 0.0,
            "t_queue": 0.0,
            "t_connect": None,
            "t_first_byte": 0.012346,
            "t_total": 0.013,
            "retries": 0,
            "reused": True,
            "tls_version": "TLSv1.3",
            "sni": "app.example.com",
            "user_agent": "Mozilla/5.0",
            "sdk": "posthog-js",
            "sdk_version": "1.449.0",
            "termination": "--",
            "error": "",
        }

    def test_an_empty_record_is_a_line_too(self) -> None:
        assert json.loads(encode_json(AccessRecord()))["client_ip"] == ""

    def test_what_is_no_number_is_null(self) -> None:
        said = json.loads(encode_json(record(t_total=float("nan"), t_queue=float("inf"))))
        assert said["t_total"] is None
        assert said["t_queue"] is None

    @pytest.mark.parametrize(
        ("agent", "shown"),
        [
            (b'a"b\\c', 'a"b\\c'),
            (b"a\x00\x1b[31m\x7f\r\n", "a\x00\x1b[31m\x7f\r\n"),
            ("é\u0085\u2028".encode(), "é\u0085\u2028"),
            (b"\xff\xfe", "\\xff\\xfe"),
        ],
    )
    def test_bytes_are_escaped_but_not_lost(self, agent: bytes, shown: str) -> None:
        line = encode_json(record(user_agent=agent))
        assert all(0x20 <= byte < 0x7F for byte in line[:-1])
        assert json.loads(line)["user_agent"] == shown

    def test_long_values_are_cut(self) -> None:
        said = json.loads(
            encode_json(record(user_agent=b"a" * 60_000, error="e" * 60_000, target=b"/" + b"x" * 60_000))
        )
        for name in ("user_agent", "error", "path"):
            assert len(said[name]) == MAX_TEXT + 3
            assert said[name].endswith("...")


class TestText:
    def test_the_whole_line(self) -> None:
        assert encode_text(record()) == (
            b"2025-11-25T07:55:02.125Z 203.0.113.7 POST app.example.com/e/ 200 upstream 0.013s 1204>15 "
            b"/e default -- posthog-js/1.449.0\n"
        )

    def test_with_an_unknown_sender_an_error_and_nothing_else(self) -> None:
        line = encode_text(
            AccessRecord(user_agent=b'x "y"', error="head_timeout: too slow", termination="cR", status=408)
        )
        assert line == (
            b"1970-01-01T00:00:00.000Z unix - - 408 proxy - 0>0 - - cR "
            rb'"x \"y\"" "head_timeout: too slow"'
            b"\n"
        )

    def test_nothing_can_begin_a_new_line_or_word(self) -> None:
        line = encode_text(record(host=b"a b\r\n2025 evil", user_agent=b"\x1b[2J\x7f\xff\n", target=b"/\n x"))
        assert line.count(b"\n") == 1
        assert rb"a\x20b\r\n2025\x20evil/\n\x20x" in line
        assert all(0x20 <= byte < 0x7F for byte in line[:-1])


class TestTokens:
    @pytest.mark.parametrize(
        ("target", "path"),
        [
            (f"/array/{TOKEN}/config?x=1", "/array/phc_***/config"),
            (f"/array/{TOKEN}/config.js", "/array/phc_***/config.js"),
            ("/array/old-style-token/array.js", "/array/***/array.js"),
            (f"/array%2f{TOKEN}%2Fconfig", "/array%2fphc_***%2Fconfig"),
            ("//array//secret/config", "//array//***/config"),
            ("/%61rray/secret/config", "/%61rray/***/config"),
            ("/array;v=1/secret/config", "/array;***/***/config"),
            ("/array\\secret\\config", "/array\\***\\config"),
            ("/shared/AbCdEf", "/shared/***"),
            ("/embedded/AbCdEf?x", "/embedded/***"),
            ("/exporter/AbCdEf/x.png", "/exporter/***/x.png"),
            ("/messaging-preferences/AbC/", "/messaging-preferences/***/"),
            ("/site_app/12/tok/hash/", "/site_app/12/***/hash/"),
            ("/reset/uuid/tok", "/reset/uuid/***"),
            (f"/x/{TOKEN}", "/x/phc_***"),
            (f"/x/y{TOKEN}", "/x/***"),
            (f"/x/phc%5f{TOKEN[4:]}", "/x/phc_***"),
            ("/x/phx_short", "/x/phx_***"),
            ("/x;token=abc/y", "/x;***/y"),
            ("/x/token=abc", "/x/***"),
            ("/x/graphs_of/y", "/x/graphs_of/y"),
            ("/e%3ftoken=abc", "/e"),
            ("/e?token=abc&api_key=def", "/e"),
            ("/api/array/x", "/api/array/x"),
            ("array/secret", "array/***"),
            ("*", "*"),
            ("", ""),
            ("/", "/"),
        ],
    )
    def test_paths(self, target: str, path: str) -> None:
        assert logged_path(target.encode()).decode() == path

    @pytest.mark.parametrize(
        ("text", "safe"),
        [
            (f"bad key {TOKEN}!", "bad key phc_***!"),
            (f"xyz{TOKEN}", "xyzphc_***"),
            ("phs_abc-d_e f", "phs_*** f"),
            ("a?api_key=1&token=2;x=3", "a?api_key=***&token=***;x=3"),
            ("personal_API_KEY=abc", "personal_API_KEY=***"),
            ("graphs_total seraph_x phone=1", "graphs_total seraph_x phone=1"),
        ],
    )
    def test_anywhere_else(self, text: str, safe: str) -> None:
        assert masked(text.encode()).decode() == safe
        for line in (
            encode_json(record(user_agent=text.encode(), error=text)),
            error_line(LogLevel.INFO, "x", 0.0, detail=text),
        ):
            assert safe in line.decode()


class TestSdk:
    @pytest.mark.parametrize(
        ("target", "agent", "sdk"),
        [
            (b"/batch/", b"posthog-python/7.91.1", ("posthog-python", "7.91.1")),
            (b"/flags/?v=2", b"posthog-node/5.70.0 (x)", ("posthog-node", "5.70.0")),
            (b"/e/?ip=1&ver=1.449.0", b"Mozilla/5.0", ("posthog-js", "1.449.0")),
            (b"/e/?ver=2.0&lib=web", b"", ("web", "2.0")),
            (b"/e/?lib=posthog-ios", b"", ("posthog-ios", "")),
            (b"/e/?ver=<script>", b"Mozilla/5.0", ("", "")),
            (b"/e/?ver=" + TOKEN.encode(), b"", ("", "")),
            (b"/e/?ver=1\n", b"", ("", "")),
            (b"/e/?over=1", b"", ("", "")),
            (b"/e/ver=1", b"curl/8", ("", "")),
        ],
    )
    def test_where_it_says_so(self, target: bytes, agent: bytes, sdk: tuple[str, str]) -> None:
        assert sdk_of(target, agent) == sdk


class TestTermination:
    def test_two_letters(self) -> None:
        assert termination(Cause.NORMAL, Phase.DONE) == "--"
        assert termination(Cause.UPSTREAM_LATE, Phase.ANSWER_HEAD) == "sH"

    @pytest.mark.parametrize("kind", [Cause, Phase])
    def test_letters_are_distinct(self, kind: type[Cause] | type[Phase]) -> None:
        letters = [member.value for member in kind.__members__.values()]
        assert len(set(letters)) == len(letters)
        assert all(len(letter) == 1 for letter in letters)

    @pytest.mark.parametrize(
        ("source", "status", "cause"),
        [
            (Source.DOWNSTREAM, 408, Cause.CLIENT_LATE),
            (Source.DOWNSTREAM, 499, Cause.CLIENT_LEFT),
            (Source.DOWNSTREAM, 413, Cause.REFUSED),
            (Source.UPSTREAM, 504, Cause.UPSTREAM_LATE),
            (Source.UPSTREAM, 502, Cause.UPSTREAM_FAILED),
            (Source.PROXY, 500, Cause.INTERNAL),
            (Source.PROXY, 503, Cause.RESOURCES),
        ],
    )
    def test_who_is_to_blame(self, source: Source, status: int, cause: Cause) -> None:
        assert cause_of(Failure(source, "x", status, "")) is cause


class TestErrorLine:
    FIELDS = {"address": "127.0.0.1:80 x", "port": 80, "ratio": 0.5, "ok": True, "raw": b"\xff", "why": None}  # noqa: RUF012

    def test_json(self) -> None:
        line = error_line(LogLevel.WARNING, "listening", 1764057302.5, **self.FIELDS)
        assert json.loads(line) == {
            "ts": 1764057302.5,
            "level": "warning",
            "event": "listening",
            "address": "127.0.0.1:80 x",
            "port": 80,
            "ratio": 0.5,
            "ok": True,
            "raw": "\\xff",
            "why": None,
        }

    def test_text(self) -> None:
        line = error_line(
            LogLevel.ERROR, "bad thing", 1764057302.5, LogFormat.TEXT, detail='a "b"\n', port=80
        )
        assert line == rb'2025-11-25T07:55:02.500Z ERROR bad\x20thing detail="a \"b\"\n" port="80"' + b"\n"

    def test_anything_else_is_shown_as_text(self) -> None:
        assert json.loads(error_line(LogLevel.DEBUG, "x", 0.0, error=ValueError("no")))["error"] == "no"

    def test_a_traceback_has_room_but_not_endless_room(self) -> None:
        said = json.loads(error_line(LogLevel.DEBUG, "x", 0.0, trace="t" * 60_000))
        assert said["trace"] == "t" * MAX_EVENT_TEXT + "..."

    def test_a_false_value_is_not_an_empty_one(self) -> None:
        said = json.loads(error_line(LogLevel.DEBUG, "x", 0.0, zero=0, no=False, nothing=""))
        assert (said["zero"], said["no"], said["nothing"]) == (0, False, "")


class Recorder:
    """A sink that keeps its batches, or fails as told."""

    def __init__(self, error: OSError | None = None) -> None:
        self.batches: list[bytes] = []
        self.error = error

    def __call__(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.batches.append(data)


class TestBatchedLog:
    def test_one_call_per_flush(self) -> None:
        sink = Recorder()
        log = BatchedLog(sink)
        log.flush()
        log.write(b"a\n")
        log.write(b"b\n")
        assert (sink.batches, log.pending) == ([], 4)
        log.flush()
        log.flush()
        assert (sink.batches, log.pending) == ([b"a\nb\n"], 0)

    @pytest.mark.parametrize(
        ("form", "line"),
        [
            (LogFormat.JSON, b'{"level":"warning","event":"log_lines_dropped","count":2}\n'),
            (LogFormat.TEXT, b'WARNING log_lines_dropped count="2"\n'),
        ],
    )
    def test_what_does_not_fit_is_dropped_and_one_line_says_so(self, form: LogFormat, line: bytes) -> None:
        sink = Recorder()
        log = BatchedLog(sink, max_bytes=8, form=form)
        for text in (b"12345\n", b"1234\n", b"1234\n", b"\n"):
            log.write(text)
        assert log.pending == 7
        assert repr(log) == "<BatchedLog pending=7 dropped=2 lost=0>"
        log.flush()
        log.write(b"next\n")
        log.flush()
        assert sink.batches == [b"12345\n\n" + line, b"next\n"]
        assert log.dropped == 2

    def test_a_line_larger_than_the_buffer_is_dropped(self) -> None:
        sink = Recorder()
        log = BatchedLog(sink, max_bytes=3)
        log.write(b"1234\n")
        log.flush()
        assert sink.batches == [b'{"level":"warning","event":"log_lines_dropped","count":1}\n']

    def test_a_sink_that_fails_costs_its_batch_and_nothing_else(self) -> None:
        sink = Recorder(BrokenPipeError())
        log = BatchedLog(sink)
        log.write(b"a\n")
        log.write(b"b\n")
        log.flush()
        assert (log.lost, log.pending) == (2, 0)
        sink.error = None
        log.write(b"c\n")
        log.flush()
        assert sink.batches == [b"c\n"]

    def test_a_bug_of_the_sink_is_not_hidden(self) -> None:
        def broken(data: bytes) -> None:
            raise TypeError(data)

        log = BatchedLog(broken)
        log.write(b"a\n")
        with pytest.raises(TypeError):
            log.flush()


@pytest.mark.parametrize(
    ("level", "least", "kept"),
    [
        ("debug", "info", False),
        ("info", "info", True),
        ("error", "warning", True),
        ("warning", "error", False),
    ],
)
def test_the_error_log_keeps_a_level_and_what_is_above(level: str, least: str, *, kept: bool) -> None:
    assert is_kept(LogLevel(level), LogLevel(least)) is kept
