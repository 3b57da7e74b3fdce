from __future__ import annotations

import re

from proxy.config.aliases import LISTED_WORDS, AliasesConfig, suggested_prefix
from proxy.config.load import config_from
from proxy.config.schema import Alias


def test_there_are_none_unless_said() -> None:
    assert AliasesConfig() == AliasesConfig("", (), False)


def test_they_are_read_from_lists_and_from_text() -> None:
    loaded = config_from(
        {
            "upstream": "http://web:1",
            "aliases": {"prefix": "/k7-x", "paths": "/x1=/e/, /a/lib.js = /static/array.js"},
        }
    )
    aliases = loaded.config.aliases
    assert aliases.prefix == "/k7-x"
    assert aliases.paths == (Alias("/x1", "/e/"), Alias("/a/lib.js", "/static/array.js"))


def test_a_suggested_prefix_is_the_same_for_the_same_site_and_another_for_another() -> None:
    names = [suggested_prefix(f"site-{number}") for number in range(2000)]
    assert names == [suggested_prefix(f"site-{number}") for number in range(2000)]
    assert len(set(names)) == 2000


def test_a_suggested_prefix_has_no_listed_word_in_it_and_can_be_configured() -> None:
    for number in range(2000):
        name = suggested_prefix(str(number))
        assert re.fullmatch(r"/[a-z][1-9]-[a-z]{8}", name)
        assert not [word for word in LISTED_WORDS if word in name]
    config_from({"upstream": "http://web:1", "aliases": {"prefix": suggested_prefix("x")}})
