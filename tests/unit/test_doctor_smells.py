from __future__ import annotations

import resource
import shutil
from collections import namedtuple
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.load import config_from
from proxy.doctor import smells
from proxy.doctor.findings import Severity

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config.schema import Config
    from proxy.doctor.findings import Finding

Usage = namedtuple("Usage", "total used free")


def config(**settings: Any) -> Config:
    spool = {"spool": {"directory": "/var/lib/spool"}}
    return config_from({"upstream": "http://127.0.0.1:9", **spool, **settings}).config


def test_nothing_to_say() -> None:
    (finding,) = smells.configuration(config(), [])
    assert finding.severity is Severity.OK


@pytest.mark.parametrize(
    ("warnings", "text", "cure"), [("a; b; do c", "a; b", "do c"), ("do d", "do d", "do d")]
)
def test_the_loaders_warnings_with_their_cure(warnings: str, text: str, cure: str) -> None:
    (finding,) = smells.configuration(config(), [warnings])
    assert (finding.text, finding.cure) == (text, cure)


def test_everybody_is_a_proxy() -> None:
    found = [*smells.configuration(config(trust={"proxies": ["0.0.0.0/0", "10.0.0.0/8", "::/0"]}), [])]
    assert [finding.text.partition(": ")[0] for finding in found] == [
        "trust.proxies has 0.0.0.0/0",
        "trust.proxies has ::/0",
    ]


def test_limits_below_posthogs_own() -> None:
    (finding,) = smells.configuration(config(limits={"body_replay": "1MiB"}), [])
    assert finding.text == "limits.body_replay = 1MiB, while PostHog takes 25MiB on /s"


def test_no_spool() -> None:
    (finding,) = smells.configuration(config(spool={}), [])
    assert finding.text == "there is no spool: events are lost while PostHog is away"
    assert [*smells.spool_disk(config(spool={}))] == []


def test_the_disk_of_the_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def judged(**spool: Any) -> Finding:
        (finding,) = smells.spool_disk(config(spool={"directory": str(tmp_path / "new" / "spool"), **spool}))
        return finding

    assert judged(keep_free=0, max_bytes="1MiB").severity is Severity.OK
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000 << 20, 990 << 20, 10 << 20))
    assert judged().text.startswith("1 % of the disk of ")
    assert judged(keep_free=1).text.startswith("10MiB are free on the disk of ")
    (tmp_path / "file").write_text("")
    denied = judged(directory=str(tmp_path / "file"))
    assert (denied.severity, "cannot be written" in denied.text) == (Severity.ERROR, True)


def test_descriptors() -> None:
    settings = config(limits={"connections": 1000})
    few = smells.descriptors(settings, 1024, 4096)
    assert "enough for 384 connections of the 1000" in few.text
    assert few.cure == "LimitNOFILE=2256 in the unit, or ulimit -n 2256"
    assert smells.descriptors(settings, 1024, 1024).cure.endswith("(root only: 1024 is the most)")
    assert smells.descriptors(settings, 2256, 4096).severity is Severity.OK
    assert smells.descriptors(settings, resource.RLIM_INFINITY, 0).severity is Severity.OK


def test_the_queue() -> None:
    settings = config(limits={"backlog": 1024})
    assert smells.queue(settings, 128).cure == "sysctl -w net.core.somaxconn=1024"
    assert smells.queue(settings, 1024).severity is Severity.OK


def test_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert [finding.code for finding in smells.machine(config(spool={}))] == ["descriptors", "somaxconn"]
    monkeypatch.setattr(smells, "SOMAXCONN", tmp_path / "none")
    assert [finding.code for finding in smells.machine(config(spool={}))] == ["descriptors"]
