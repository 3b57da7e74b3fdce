"""Where lines go: files that are moved away, journald's priorities, syslog's datagrams."""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING

import pytest

from proxy.observe.log import BatchedLog
from proxy.observe.sinks import MAX_DATAGRAM, FileSink, JournalSink, NoSink, SyslogSink, open_sink
from proxy.observe.turns import SharedSink, Turns

if TYPE_CHECKING:
    from pathlib import Path

LINES = (
    b'{"ts":1.5,"level":"error","event":"x"}\n{"ts":1.5,"request_id":"y"}\n2026-11-25T10:00:00Z WARNING z\n'
)


class TestFileSink:
    def test_appends_to_a_file_that_only_the_owner_may_write(self, tmp_path: Path) -> None:
        path = tmp_path / "access.log"
        for text in (b"one\n", b"two\n"):
            sink = open_sink(str(path))
            sink(text)
            sink.close()
            sink.close()
        assert path.read_bytes() == b"one\ntwo\n"
        assert path.stat().st_mode & 0o137 == 0

    def test_whoever_writes_to_the_same_place_names_the_same_place(self, tmp_path: Path) -> None:
        one, two, other = (open_sink(str(tmp_path / name)) for name in ("a.log", "a.log", "b.log"))
        places = [sink.take_up() for sink in (one, two, other) if isinstance(sink, FileSink)]
        assert places[0] == places[1] == (tmp_path / "a.log").stat().st_ino != places[2]
        for sink in (one, two, other):
            sink.close()

    def test_a_file_that_cannot_be_opened(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            open_sink(str(tmp_path / "no" / "access.log"))

    @pytest.mark.parametrize("where", ["stdout", "stderr"])
    def test_standard_streams_stay_open(self, where: str, capfd: pytest.CaptureFixture[str]) -> None:
        sink = open_sink(where)
        sink(b"one\n")
        sink.close()
        sink(b"two\n")
        captured = capfd.readouterr()
        assert getattr(captured, where.replace("std", "")) == "one\ntwo\n"

    def test_off_writes_nowhere(self, capfd: pytest.CaptureFixture[str]) -> None:
        sink = open_sink("off")
        sink(b"one\n")
        sink.close()
        assert isinstance(sink, NoSink)
        assert capfd.readouterr() == ("", "")

    def test_a_large_batch_is_written_whole(self, tmp_path: Path) -> None:
        # A pipe takes 64 KiB at a time: one write is not enough.
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        sink = FileSink(writing, owned=True)
        try:
            with pytest.raises(BlockingIOError):
                sink(b"x" * 1_000_000)
            written = len(os.read(reading, 1_000_000))
            assert 0 < written < 1_000_000
            sink(b"end\n")
            assert os.read(reading, 100) == b"end\n"
        finally:
            sink.close()
            os.close(reading)

    def test_a_reader_that_is_gone_is_counted_by_the_log(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        sink = FileSink(writing, owned=True)
        log = BatchedLog(sink)
        log.write(b"a\n")
        log.flush()
        assert log.lost == 1
        sink.close()

    def test_a_file_that_was_moved_away_is_made_anew(self, tmp_path: Path) -> None:
        path = tmp_path / "access.log"
        sink = open_sink(str(path))
        sink(b"one\n")
        path.rename(tmp_path / "access.log.1")
        sink(b"two\n")
        sink.reopen()
        sink(b"three\n")
        sink.close()
        assert (tmp_path / "access.log.1").read_bytes() == b"one\ntwo\n"
        assert path.read_bytes() == b"three\n"

    def test_what_was_opened_twice_before_a_line_leaves_no_descriptor(self, tmp_path: Path) -> None:
        path, before = tmp_path / "a", len(os.listdir("/proc/self/fd"))
        sink = open_sink(str(path))
        for _ in range(3):
            sink.reopen()
        assert len(os.listdir("/proc/self/fd")) == before + 2  # where nothing is logged, too
        sink(b"one\n")
        sink.reopen()
        sink.close()
        assert path.read_bytes() == b"one\n"
        assert len(os.listdir("/proc/self/fd")) == before

    def test_where_it_cannot_be_made_the_old_one_goes_on(self, tmp_path: Path) -> None:
        folder = tmp_path / "logs"
        folder.mkdir()
        sink = open_sink(str(folder / "a"))
        folder.rename(tmp_path / "moved")
        with pytest.raises(FileNotFoundError):
            sink.reopen()
        sink(b"one\n")
        sink.close()
        assert (tmp_path / "moved" / "a").read_bytes() == b"one\n"


@pytest.mark.parametrize("shared", [True, False])
def test_journald_hears_the_priority_of_each_line(shared: bool, capfd: pytest.CaptureFixture[str]) -> None:
    journal = open_sink("journald")
    assert isinstance(journal, JournalSink)
    sink = SharedSink(journal, Turns()) if shared else journal
    sink(LINES)
    sink.reopen()
    assert [line[:4] for line in capfd.readouterr().err.splitlines()] == ["<3>{", "<6>{", "<4>2"]


SYSLOG = re.compile(rb"<(\d+)>1 \d{4}-\d\d-\d\dT[\d:.]+\+00:00 (\S+) posthog-proxy (\d+) - - (.*)", re.DOTALL)
"""RFC 5424 section 6."""


def test_syslog_hears_one_datagram_a_line(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        sink = SyslogSink(path=path)
        sink(LINES)
        heard = [SYSLOG.fullmatch(daemon.recv(4096)) for _ in range(3)]
    assert all(heard)
    said = [(int(match[1]), match[3], match[4] + b"\n") for match in heard if match is not None]
    pid = str(os.getpid()).encode()
    lines = LINES.splitlines(keepends=True)
    assert said == [(27, pid, lines[0]), (30, pid, lines[1]), (28, pid, lines[2])]
    with pytest.raises(OSError, match="refused"):
        sink(LINES)
    os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:  # it was restarted
        daemon.bind(path)
        sink(LINES)
        assert SYSLOG.fullmatch(daemon.recv(4096))
    sink.close()
    sink.close()


def test_syslog_of_another_machine() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        sink = open_sink(f"syslog:127.0.0.1:{daemon.getsockname()[1]}")
        sink(b"one\n")
        sink.reopen()
        sink(b"two\n")
        assert [daemon.recv(4096)[-3:] for _ in range(2)] == [b"one", b"two"]
        sink.close()


def test_a_line_that_no_datagram_holds_is_cut_and_costs_no_other() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        sink = open_sink(f"syslog:127.0.0.1:{daemon.getsockname()[1]}")
        sink(b"one\n" + b"x" * 70_000 + b"\ntwo\n")
        one, long, two = (daemon.recv(70_000) for _ in range(3))
        assert (one[-3:], long[-3:], two[-3:]) == (b"one", b"xxx", b"two")
        assert len(long) == MAX_DATAGRAM
        sink.close()


def test_syslog_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SyslogSink(path=str(tmp_path / "none"))(b"one\n")
    assert isinstance(open_sink("syslog"), SyslogSink)
