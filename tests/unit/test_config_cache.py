"""`[cache]`: on unless it is turned off, and bounds that a mistake does not pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.load import config_from
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.config.schema import CacheConfig


def cache(**keys: Any) -> CacheConfig:
    return config_from({"upstream": "http://web:1", "cache": keys}).config.cache


def test_it_is_on_and_one_key_turns_it_off() -> None:
    assert cache().enabled
    assert not cache(enabled=False).enabled


def test_a_script_of_posthog_fits_many_times() -> None:
    script = 400 * 1024
    assert script < cache().max_entry < cache().max_bytes


def test_an_outage_of_an_hour_is_bridged() -> None:
    assert cache().stale == 3600


@pytest.mark.parametrize(
    ("key", "value"),
    [("max_bytes", 1), ("max_entry", 0), ("stale", -1), ("variants", 0), ("wait", 61), ("enabled", "maybe")],
)
def test_what_cannot_be_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        cache(**{key: value})
    assert [problem.key for problem in caught.value.problems] == [f"cache.{key}"]
