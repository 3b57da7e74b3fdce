"""What the benchmark reads off the machine, how it chooses proxies, and what it reads out of profiles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import machine, needs, run
from benchmarks.peers import OTHERS, WATCHING, Ours, choose, parse_ours
from benchmarks.profiling import by_file, grouped, parse_shares, parse_stacks
from benchmarks.rounds import order
from benchmarks.templates import render

CORES = sorted(os.sched_getaffinity(0))
HERE = Ours("ours", Path(sys.executable))


# --- cores and accounts ----------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["0", "x,y", "0,0", "0,99999", "1,"])
def test_cores_that_cannot_be_had(wanted: str) -> None:
    with pytest.raises(machine.CoresError):
        machine.choose_cores(wanted)


def test_one_core_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    with pytest.raises(machine.CoresError, match="two cores"):
        machine.choose_cores()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3, 5})
    assert machine.choose_cores() == machine.Cores(peer=5, load=1)
    assert machine.choose_cores("1,3") == machine.Cores(peer=1, load=3)


def test_the_account_of_a_process_covers_its_children() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        before = machine.processor_time(parent.pid)
        assert len({process for process, _ in before}) == 2
        assert all(used > 0 for used in before.values())
        assert machine.spent(before, machine.processor_time(parent.pid)) >= 0
        assert machine.resident(parent.pid) > 2 * 1024 * 1024
        parent.communicate(b"\n")


def test_the_time_of_a_thread_that_ended_is_lost() -> None:
    assert machine.spent({(1, 1): 5}, {(1, 1): 8, (1, 2): 4}) == 7
    with pytest.raises(LookupError, match="ended"):
        machine.spent({(1, 1): 5, (1, 2): 1}, {(1, 1): 8})


def test_the_time_of_a_core_grows() -> None:
    first = machine.busy_time(CORES[0])
    assert machine.busy_time(CORES[0]) >= first > 0
    with pytest.raises(LookupError):
        machine.busy_time(99_999)


def test_the_description_names_what_a_reader_needs() -> None:
    described = machine.describe()
    assert described["kernel"].startswith("Linux ")
    assert set(described) >= {"processor", "cores", "memory", "distribution"}


# --- peers -----------------------------------------------------------------------------------------


def test_a_build_of_ours() -> None:
    assert parse_ours(f"a={sys.executable}") == Ours("a", Path(sys.executable))
    assert parse_ours(f"b-2=X=1 Y=z {sys.executable} --workers 2") == Ours(
        "b-2", Path(sys.executable), {"X": "1", "Y": "z"}, ("--workers", "2")
    )


@pytest.mark.parametrize("text", ["", "a", "a=", "a=X=1", "=python", f"a b={sys.executable}", "a=/no/such"])
def test_no_build_of_ours(text: str) -> None:
    with pytest.raises(ValueError, match="is "):
        parse_ours(text)


def test_peers_by_name() -> None:
    second = Ours("second", Path(sys.executable))
    assert choose(["nginx", "ours"], [HERE, second]) == [OTHERS[0], HERE, second]
    assert choose(["second"], [HERE, second]) == [second]
    assert choose(["bare", "unlogged", "watched"], []) == list(reversed(WATCHING))
    with pytest.raises(ValueError, match="apache"):
        choose(["apache"], [HERE])
    with pytest.raises(ValueError, match="same name"):
        choose(["nginx", "nginx"], [HERE])


def test_each_peer_comes_first_as_often_as_any_other() -> None:
    peers = ["a", "b", "c"]
    rounds = [order(peers, number) for number in range(6)]
    assert all(sorted(one) == peers for one in rounds)
    assert sorted(one[0] for one in rounds) == ["a", "a", "b", "b", "c", "c"]


def test_a_template_without_a_value_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "template"
    file.write_text("listen {{port}}; map { {{line}} }")
    assert render(file, port=80, line="a b;") == "listen 80; map { a b; }"
    with pytest.raises(KeyError):
        render(file, port=80)


# --- the command -----------------------------------------------------------------------------------


def test_what_is_missing_is_named_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(needs, "EVERYWHERE", "")
    assert run.main(["--peers", "caddy,haproxy", "--cores", f"{CORES[0]},{CORES[1]}"]) == 2
    said = capsys.readouterr().err
    for name in ("wrk", "nginx", "caddy", "haproxy", "taskset", "setpriv"):
        assert f"  {name}: apt-get install" in said


@pytest.mark.parametrize(
    "arguments", [["--loads", "no"], ["--peers", "no"], ["--ours", "x"], ["--rounds", "0"], ["--cores", "7"]]
)
def test_a_wrong_command_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(arguments)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


# --- profiles --------------------------------------------------------------------------------------

PERF = """\
# Overhead  Shared Object  Symbol
    61.20%  [kernel.kallsyms]                          [k] tcp_sendmsg     -      -
    25.00%  libpython3.11.so.1.0                       [.] _PyEval_EvalFrameDefault
     4.50%  loop.cpython-311-x86_64-linux-gnu.so       [.] uv__io_poll
     3.00%  libc.so.6  [.] memcpy
     2.00%  a1b2__mypyc.cpython-311-x86_64-linux-gnu.so  [.] CPyDef_match
     1.00%  libssl.so.3  [.] x
"""


def test_shares_out_of_perf() -> None:
    shares = parse_shares(PERF)
    assert shares[0] == (61.2, "[kernel.kallsyms] [k] tcp_sendmsg")
    assert grouped(shares) == {
        "kernel": 61.2,
        "interpreter": 25.0,
        "uvloop": 4.5,
        "libc": 3.0,
        "other compiled modules": 2.0,
        "other": 1.0,
    }


def test_functions_out_of_py_spy() -> None:
    counts = parse_stacks(
        "main (a.py:1);f (b.py:2) 3\nmain (a.py:1) 2\nmain (a.py:1);g (b.py:9) 4\nprocess 7:x 9\n"
    )
    assert counts == {"f (b.py:2)": 3, "main (a.py:1)": 2, "g (b.py:9)": 4}
    assert by_file(counts) == {"b.py": 7, "a.py": 2}
