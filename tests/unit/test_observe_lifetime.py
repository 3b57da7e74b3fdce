"""What is told of the process itself."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from typing import TYPE_CHECKING

from proxy.observe.lifetime import Lifetime, installed_version
from tests.support.clock import HandClock

if TYPE_CHECKING:
    import pytest


def test_reloads_are_counted_and_the_last_good_one_is_dated() -> None:
    clock = HandClock()
    lifetime = Lifetime(clock, "1.2", workers=3)
    began = clock.wall()
    clock.now += 10
    lifetime.reloaded(good=True)
    clock.now += 10
    lifetime.reloaded(good=False)
    snapshot = lifetime.snapshot()
    assert lifetime.seconds == 20
    assert not lifetime.last_reload
    assert snapshot["posthog_proxy_build_info"] == {'version="1.2"': 1}
    assert snapshot["posthog_proxy_workers"] == 3
    assert snapshot["posthog_proxy_config_reloads_total"] == {'result="success"': 1, 'result="failure"': 1}
    assert snapshot["posthog_proxy_config_last_reload_success"] == 0
    assert snapshot["posthog_proxy_config_last_reload_timestamp_seconds"] == int(began + 10)
    assert snapshot["posthog_proxy_start_time_seconds"] == int(began)


def test_a_source_tree_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed_version()

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", absent)
    assert installed_version() == "source"
