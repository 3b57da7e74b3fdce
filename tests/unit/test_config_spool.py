"""`[spool]`: off unless a directory is named, and bounds that a mistake does not pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.load import config_from, load_config
from proxy.config.schema import SpoolConfig
from proxy.errors import ConfigError
from proxy.message import SpoolMode

if TYPE_CHECKING:
    from proxy.config.schema import Config


def spool(**keys: Any) -> SpoolConfig:
    return config_from({"upstream": "http://web:1", "spool": keys}).config.spool


def test_nothing_is_kept_unless_a_directory_is_named() -> None:
    assert spool() == SpoolConfig()
    assert spool().directory == ""
    assert spool(directory="/var/spool/x").mode is SpoolMode.FALLBACK


def test_the_flags() -> None:
    def flagged(**flags: str) -> Config:
        named = {key.replace("__", "."): value for key, value in flags.items()}
        return load_config(flags={"upstream": "http://web:1", **named}).config

    config = flagged(spool__directory="./spool", spool__mode="first").spool
    assert (config.directory, config.mode) == ("./spool", SpoolMode.FIRST)


def test_a_client_hears_of_it_before_an_sdk_sends_again() -> None:
    posthog_node = 10
    assert spool().first_byte < posthog_node
    assert spool().commit_timeout < posthog_node


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("directory", "fallback"),
        ("mode", "sometimes"),
        ("first_byte", 0),
        ("max_bytes", "1KiB"),
        ("max_age", 0),
        ("keep_free", 91),
        ("max_dead_letters", -1),
        ("memory", "2GiB"),
        ("piece", 1),
        ("commit_interval", 1),
        ("commit_timeout", 0),
    ],
)
def test_bounds(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        spool(**{key: value})
    assert [problem.key for problem in caught.value.problems] == [f"spool.{key}"]
