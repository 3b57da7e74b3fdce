"""Other names for PostHog's paths, so that lists of ad blockers do not match: `[aliases]`."""

# ruff: noqa: TC001 -- the annotations are evaluated: keys.py reads each key's type from them.
from __future__ import annotations

import hashlib
from dataclasses import dataclass

from proxy.config.declaration import key
from proxy.config.values import Alias

LISTED_WORDS = (
    "ad",
    "analytic",
    "banner",
    "batch",
    "beacon",
    "capture",
    "click",
    "collect",
    "count",
    "decide",
    "engage",
    "event",
    "flag",
    "gtag",
    "ingest",
    "log",
    "measure",
    "metric",
    "pixel",
    "posthog",
    "record",
    "relay",
    "replay",
    "session",
    "spy",
    "stat",
    "surve",
    "tag",
    "tele",
    "track",
    "visit",
)
"""What rules of ad-block lists (EasyPrivacy and its like) look for in paths, and PostHog's own names."""

_CONSONANTS = "bdfklmnprsvz"
_VOWELS = "aeiou"


@dataclass(frozen=True, slots=True)
class AliasesConfig:
    """`[aliases]`: other names for PostHog's public paths. Rules, caps and routes hold for the path that a
    name stands for; the access log shows the name that was asked for, and the route of the real path."""

    prefix: str = key(
        "",
        form="alias_prefix",
        doc="Everything below it reaches PostHog without it: posthog-js with this as its `api_host`.",
        why="Lists match /e, /decide, /ingest and PostHog's host names; a name of your own is on none.",
    )
    paths: tuple[Alias, ...] = key(
        (), doc='Single names: `["/x1=/e/", "/lib.js=/static/array.js"]`. The query is kept.'
    )
    app: bool = key(
        False,
        doc="The prefix reaches PostHog's app as well, where the same access rules hold. Otherwise it leads "
        "to public and SDK endpoints only, and answers 404 for the rest.",
        why="A second way in is a second thing to protect.",
    )


def suggested_prefix(seed: str) -> str:
    """Return a prefix that looks like no other site's and that no list can know: `/v4-malore`.

    ``seed`` is what is the site's own, such as its host name and a random text: the same seed gives the same
    name. None of ``LISTED_WORDS`` is in it.
    """
    attempt = 0
    while True:
        bits = int.from_bytes(hashlib.sha256(f"{seed}\n{attempt}".encode()).digest(), "big")
        name = _pronounceable(bits)
        if not any(word in name for word in LISTED_WORDS):
            return f"/{name}"
        attempt += 1


def _pronounceable(bits: int) -> str:
    """A consonant, a digit, a dash and four syllables: 12 * 9 * 60**4 names."""
    bits, first = divmod(bits, len(_CONSONANTS))
    bits, digit = divmod(bits, 9)
    word = ""
    for _ in range(4):
        bits, consonant = divmod(bits, len(_CONSONANTS))
        bits, vowel = divmod(bits, len(_VOWELS))
        word += _CONSONANTS[consonant] + _VOWELS[vowel]
    return f"{_CONSONANTS[first]}{digit + 1}-{word}"
