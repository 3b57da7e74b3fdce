from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.load import config_from
from proxy.doctor import smells
from proxy.doctor.findings import Severity

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config.schema import Config


def config(**settings: Any) -> Config:
    return config_from({"upstream": "http://127.0.0.1:9", **settings}).config


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
    assert [finding.code for finding in smells.machine(config())] == ["descriptors", "somaxconn"]
    monkeypatch.setattr(smells, "SOMAXCONN", tmp_path / "none")
    assert [finding.code for finding in smells.machine(config())] == ["descriptors"]
