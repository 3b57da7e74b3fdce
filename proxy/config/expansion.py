"""What the short keys stand for: `preset` and `behind`, written out as if the operator had said all of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from proxy.config import keys
from proxy.config.deployments import DEPLOYMENTS
from proxy.config.fronts import FrontConfig
from proxy.config.notation import network, shown
from proxy.config.reading import Reading
from proxy.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxy.config.fronts import Known
    from proxy.config.reading import Setting
    from proxy.config.schema import Config


def preset_reading(readings: Iterable[Reading]) -> Reading:
    """Return what the preset says that the strongest of ``readings`` (the last) names, as a source of its
    own; empty where none does."""
    reading = Reading()
    preset = None
    for each in readings:
        preset = each.settings.get("preset", preset)
    if preset is not None:
        reading.take_mapping(DEPLOYMENTS[preset.value], f"preset {preset.shown}")
    return reading


def merge_routes(given: dict[str, Setting], preset: Reading) -> None:
    """Put the preset's routes behind those of the operator, who has the say over a path that both name."""
    own, weak = given.get("routes"), preset.settings.get("routes")
    if own is None or weak is None or own is weak:
        return
    named = {route.path for route in own.value}
    rest = tuple(route for route in weak.value if route.path not in named)
    given["routes"] = dataclasses.replace(own, value=(*own.value, *rest))


def with_fronts(
    config: Config, given: Mapping[str, Setting], ranges: Mapping[str, Known], problems: list[Problem]
) -> tuple[Config, Mapping[str, Known]]:
    """Write `behind` out as entries of `fronts`, and the networks of all of them into `trust.proxies`, but
    for those that speak the PROXY protocol: nothing in their requests is their own word.

    Return the words of `behind` with what they mean. A word that is not in ``ranges`` is a problem.
    """
    known: dict[str, Known] = {}
    added: list[FrontConfig] = []
    for word in config.behind:
        if "." in word or ":" in word:
            added.append(FrontConfig(networks=(network(word),)))
        elif word in ranges:
            known[word] = ranges[word]
            added += _entries(word, ranges[word], config, problems)
        else:
            setting = given["behind"]
            allowed = f"is not known; known are {', '.join(ranges)}, addresses and CIDR blocks"
            near = keys.closest_word(word, ranges)
            problems.append(Problem(setting.said, shown(word), allowed, setting.where, near))
    fronts = (*config.fronts, *added)
    believed = [net for front in fronts if not front.proxy_protocol for net in front.networks or ()]
    trust = dataclasses.replace(
        config.trust, proxies=tuple(dict.fromkeys((*config.trust.proxies, *believed)))
    )
    return dataclasses.replace(config, fronts=fronts, trust=trust), known


def _entries(word: str, known: Known, config: Config, problems: list[Problem]) -> tuple[FrontConfig, ...]:
    """Read one word as `[[fronts]]` are read."""
    reading = Reading()
    reading.take("fronts", [known.entry], f"{config.trust.ranges_file or 'shipped networks'}, [{word}]")
    problems += reading.problems
    if reading.problems:
        return ()
    entries: tuple[FrontConfig, ...] = reading.settings["fronts"].value
    return entries
