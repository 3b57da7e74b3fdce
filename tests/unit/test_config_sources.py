from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import pytest

from proxy.config.sources import Sources
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_read_when_it_is_fetched_and_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('upstream = "http://127.0.0.1:1"\nworkers = 2\n')
    sources = Sources(str(file), {"workers": "3"}).fetch()
    file.write_text("this is not TOML")
    loaded = sources.load({"POSTHOG_PROXY_LIMITS__BACKLOG": "7"})
    assert (loaded.config.workers, loaded.config.limits.backlog) == (3, 7)
    with pytest.raises(ConfigError, match="is not valid TOML"):
        sources.fetch().load({})


def test_nothing_is_fetched_where_there_is_no_file() -> None:
    sources = Sources(None, {"upstream": "http://127.0.0.1:1"})
    assert sources.fetch() is sources
    assert sources.load({}).config.workers == 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Sources(str(tmp_path / "none.toml")).fetch()


@pytest.mark.parametrize(
    "sources",
    [
        Sources(),
        Sources("/etc/\udcff.toml", {"upstream": "http://127.0.0.1:1"}, "# Grüße\n".encode()),
    ],
)
def test_it_survives_its_way_to_another_process(sources: Sources) -> None:
    assert Sources.unpack(sources.pack()) == sources


def test_the_age_of_shipped_networks_is_judged_where_the_day_is_known() -> None:
    sources = Sources(None, {"upstream": "http://127.0.0.1:1", "behind": "cloudflare"})
    assert sources.load({}).warnings == ()
    assert len(sources.load({}, datetime.date(2030, 1, 1)).warnings) == 1
