"""The built-in table holds PostHog's paths, each once, in a form that routing understands."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from proxy.config.presets import BUILT_IN, DEFAULT_ROUTE, DEFAULT_UPSTREAM, Preset
from proxy.config.schema import RouteConfig
from proxy.message import EndpointClass


def test_no_pattern_stands_twice() -> None:
    twice = [path for path, times in Counter(preset.path for preset in BUILT_IN).items() if times > 1]
    assert twice == []


@pytest.mark.parametrize("preset", BUILT_IN, ids=lambda preset: preset.path)
def test_patterns_are_plain_paths(preset: Preset) -> None:
    # Exact, with one-segment wildcards, or a prefix of whole segments; the trailing slash is `slash`.
    assert re.fullmatch(r"(/(?:[A-Za-z0-9._@-]+|<[a-z]+>))+(/\*)?", preset.path)


def test_protected_is_what_is_not_listed() -> None:
    assert EndpointClass.PROTECTED not in {preset.cls for preset in BUILT_IN}
    assert {preset.cls for preset in BUILT_IN} == set(EndpointClass) - {EndpointClass.PROTECTED}
    assert DEFAULT_ROUTE not in {preset.path for preset in BUILT_IN}


def test_only_the_array_paths_have_no_trailing_slash_form() -> None:
    assert {preset.path for preset in BUILT_IN if not preset.slash} == {
        "/array/<token>/config",
        "/array/<token>/config.js",
        "/array/<token>/array.js",
    }


def test_a_route_without_upstream_goes_to_the_default_one() -> None:
    assert RouteConfig(path="/x").upstream == ""
    assert DEFAULT_UPSTREAM == "default"
