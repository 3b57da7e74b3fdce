"""`posthog-proxy spool`: what it prints, what it does, and how it says that it cannot."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from proxy.cli import main as cli
from proxy.spool import files
from proxy.spool_command import main
from tests.support.clock import HandClock
from tests.support.spooling import ARRIVED, kept, opened, record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Terminal:
    """A person with the command."""

    def __init__(self, directory: Path, capture: pytest.CaptureFixture[str]) -> None:
        self._directory = directory
        self._capture = capture
        self.errors = ""

    def __call__(self, *words: str, status: int = 0) -> list[str]:
        clock = HandClock()
        clock.now = 3725.0  # a little more than an hour after ARRIVED
        assert main(["--spool", str(self._directory), *words], clock) == status
        said = self._capture.readouterr()
        self.errors = said.err
        return said.out.splitlines()


@pytest.fixture
def spool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    (tmp_path / "spool").mkdir()
    return Terminal(tmp_path / "spool", capsys)


async def fill(spool: Terminal) -> list[str]:
    """Two records and two dead letters; their ids."""
    async with opened(spool._directory) as store:
        ids = [await kept(store, b"x" * 2000, arrived=ARRIVED + number) for number in range(4)]
        await kept(store, b"{}", upstream="replay", arrived=ARRIVED + 3720)
        await store.set_aside(ids[2], 400, "no\x1bsuch project")
        await store.set_aside(ids[3], 413, "")
    return [str(key) for key in ids]


def test_an_empty_spool(spool: Terminal) -> None:
    assert spool("stat") == ["nothing waits"]
    assert spool("list") == ["id  arrived  queue  route  bytes  attempts"]
    assert spool("export") == []


async def test_stat(spool: Terminal) -> None:
    await fill(spool)
    (spool._directory / "7-a.spool.damaged-1").touch()
    upstreams = [line.split() for line in spool("stat")[:3]]
    assert upstreams == [
        ["queue", "records", "bytes", "oldest"],
        ["default", "2", "4.3KiB", "1h", "2m"],
        ["replay", "1", "192B", "0m", "5s"],
    ]
    name = files.databases(spool._directory)[0].name
    assert spool("stat")[3:] == [
        "dead letters: 2 (4.3KiB)",
        f"file {name}: unused; the next proxy takes it over",
        "damaged: 7-a.spool.damaged-1",
    ]
    found = json.loads(spool("stat", "--json")[0])
    assert found["upstreams"]["default"]["records"] == 2
    assert (found["dead_letters"], found["files"]) == (2, {name: {"in_use": False}})


async def test_stat_beside_a_proxy(spool: Terminal) -> None:
    await fill(spool)
    async with opened(spool._directory, "1") as store:
        await kept(store, arrived=ARRIVED - 86_400 * 2)
        lines = spool("stat")
        assert lines[1].split() == ["default", "3", "4.5KiB", "2d", "1h"]
        assert sum(line.endswith("in use") for line in lines) == 1


async def test_list(spool: Terminal) -> None:
    ids = await fill(spool)
    lines = [line.split() for line in spool("list")]
    assert lines[1] == [ids[0], "2026-05-28T20:26:40Z", "default", "/e", "2.0KiB", "0"]
    assert len(lines) == 4
    assert [line.split()[2] for line in spool("list", "--upstream", "replay")[1:]] == ["replay"]
    assert len(spool("list", "--limit", "1")) == 2
    assert "only the first 1" in spool.errors
    shown = json.loads(spool("list", "--json")[0])
    assert (shown["id"], shown["client"]) == (ids[0], "192.0.2.1 phc_x")
    assert "body" not in shown


async def test_an_upstream_has_two_queues(spool: Terminal) -> None:
    async with opened(spool._directory) as store:
        await kept(store, upstream="default")
        await kept(store, upstream="default/replay")
    for chosen, count in (("default", 2), ("default/replay", 1), ("replay", 0)):
        assert len(spool("list", "--upstream", chosen)[1:]) == count


async def test_show(spool: Terminal) -> None:
    ids = await fill(spool)
    lines = spool("show", ids[0])
    assert lines[0].split() == ["id:", ids[0]]
    assert lines[-4:] == ["", "POST /e/ HTTP/1.1", "Host: posthog", "Content-Length: 2000"]
    assert spool("show", ids[0], "--body") == ["x" * 2000]
    assert "refused:  400 no\\x1bsuch project" in spool("show", ids[2])
    assert spool("show", "0-none:1", status=1) == []
    assert "no such file" in spool.errors


async def test_replay_needs_a_proxy(spool: Terminal) -> None:
    assert spool("replay", "--now", status=1) == []
    assert spool.errors == "error: no proxy has this spool open\n"
    async with opened(spool._directory) as store:
        assert spool("replay", "--now") == ["the proxy tries within seconds"]
        assert (await store.tend()).replay_now


async def test_dead_letters(spool: Terminal) -> None:
    ids = await fill(spool)
    lines = spool("dead-letter", "list")
    assert [line.split()[0] for line in lines[1:]] == ids[2:]
    assert lines[1].endswith("400 no\\x1bsuch project")
    assert spool("dead-letter", "retry", ids[2]) == ["to be delivered again: 1"]
    assert spool("dead-letter", "drop", "--all") == ["dropped: 1"]
    assert len(spool("dead-letter", "list")) == 1
    assert len(spool("list")) == 5
    assert spool("dead-letter", "drop", ids[2], status=1) == []
    assert "waits for delivery" in spool.errors


async def test_export_and_import(
    spool: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await fill(spool)
    lines = spool("export")
    assert spool.errors == "exported: 3\n"
    assert len(spool("export", "--upstream", "replay")) == 1
    assert len(spool("export", "--dead-letters")) == 2
    file = tmp_path / "out.jsonl"
    assert spool("export", str(file)) == []
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().splitlines() == lines

    other = Terminal(tmp_path / "other", capsys)
    other("import", str(file))
    assert other.errors == "imported: 3\n"
    standard_input = io.TextIOWrapper(io.BytesIO(file.read_bytes()))
    monkeypatch.setattr(sys, "stdin", standard_input)
    other("import")
    assert len(other("list")) == 1 + 6
    other("import", str(tmp_path / "none"), status=1)
    assert "No such file" in other.errors


def test_the_configuration_names_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('upstream = "http://web:1"\n')
    assert main(["--config", str(file), "stat"]) == 2
    assert "no spool is configured" in capsys.readouterr().err
    file.write_text(f'upstream = "http://web:1"\nspool.directory = "{tmp_path}/spool"\n')
    assert main(["--config", str(file), "stat"]) == 1
    assert "spool: No such file" in capsys.readouterr().err
    monkeypatch.setenv("POSTHOG_PROXY_UPSTREAM", "nonsense")
    assert main(["stat"]) == 2
    assert "POSTHOG_PROXY_UPSTREAM" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nonsense",),
        ("replay",),
        ("dead-letter",),
        ("dead-letter", "drop"),
        ("dead-letter", "drop", "a:1", "--all"),
        ("show",),
    ],
)
def test_wrong_words(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--spool", "/none", *words])
    assert caught.value.code == 2
    assert "usage: posthog-proxy spool" in capsys.readouterr().err


def test_it_is_a_command_of_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["spool", "--spool", str(tmp_path), "stat"]) == 0
    assert capsys.readouterr().out == "nothing waits\n"


async def test_a_body_in_pieces_is_shown_whole(spool: Terminal) -> None:
    body: Any = b"line\n" * 100_000
    async with opened(spool._directory) as store:
        entry = store.begin(record(len(body)))
        entry.write(body)
        key = (await entry.commit()).id
    assert spool("show", str(key), "--body") == ["line"] * 100_000
