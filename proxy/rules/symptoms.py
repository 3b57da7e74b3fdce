"""What an answer, or a minute of traffic, betrays about the set-up, and the setting that cures it.

Each symptom is one that users of PostHog behind a proxy report. They are judged where it costs nothing: an
answer that may betray one (``betrays``) is never for the fast path; addresses are sampled by the sweep.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy.message import SDK_CLASSES, EndpointClass, first_value
from proxy.rules.caching import is_html

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from proxy.message import Fields

REDIRECTS = frozenset({301, 302, 303, 307, 308})

WINDOW = 60.0
"""Seconds of traffic that are judged together."""

FEWEST_REQUESTS = 100
"""Requests in a window below which nothing is said about their addresses."""

FEWEST_SAMPLES = 30
"""Samples of addresses, one a sweep at most, below which nothing is said."""

MOST = 0.9
"""The share that is "most requests"."""

SILENT = 300.0
"""Seconds without any success after which an upstream is silent; after ``WINDOW`` if it has had none."""


class Symptom(enum.Enum):
    """The events of the error log."""

    HTML = "html_on_sdk_path"
    REDIRECT = "redirect_loop"
    REPLAY = "replay_too_large"
    PRIVATE = "client_ip_suspect"
    SINGLE = "one_client_ip"
    SILENT = "upstream_without_success"


class Loop(enum.Enum):
    """How a redirect leads to the URL that was just asked for; the counter's labels."""

    ITSELF = "itself"
    SCHEME = "scheme"
    SLASH = "slash"


_TRUST = (
    "list the proxies in front of this one in trust.proxies (or --trusted-proxies), and have them send "
    "X-Forwarded-For and X-Forwarded-Proto"
)

CURES: Mapping[Symptom | Loop, str] = {
    Symptom.HTML: "the upstream of this route has a web page under that path: send the path to the service "
    "that answers it with [[routes]]; current versions of PostHog's web app take no events",
    Symptom.REDIRECT: _TRUST,
    Loop.SCHEME: f"{_TRUST}; or set DISABLE_SECURE_SSL_REDIRECT at PostHog",
    Loop.ITSELF: "PostHog was told that the request is https and does not believe it: set IS_BEHIND_PROXY "
    "there, with TRUSTED_PROXIES or TRUST_ALL_PROXIES",
    Loop.SLASH: "the upstream wants the path with or without its slash, and SDKs lose events on a redirect: "
    "send the path to the service that takes it with [[routes]]",
    Symptom.REPLAY: "raise limits.body_replay here, or the limit of what is behind (nginx: "
    "client_max_body_size 64m)",
    Symptom.PRIVATE: _TRUST,
    Symptom.SINGLE: f"unless one server sends everything: {_TRUST}",
    Symptom.SILENT: "check the url of the upstream, and that it can be reached from here",
}
"""The setting that cures it."""


def betrays(status: int, fields: Fields, *, sdk: bool) -> bool:
    """May an answer be a symptom? A rough look, for the fast path. ``sdk``: an SDK asked."""
    return status in REDIRECTS or (sdk and (status == 413 or is_html(fields)))


def is_page_for_sdk(cls: EndpointClass, status: int, fields: Fields) -> bool:
    """HTML on an SDK path: the mark of a missing route. An error page of a server that is down, full or
    strict is none."""
    return cls in SDK_CLASSES and status < 500 and status not in (413, 429) and is_html(fields)


def is_replay_cut_off(cls: EndpointClass, status: int) -> bool:
    """A session recording that was too large, for us or for somebody behind us."""
    return cls is EndpointClass.REPLAY and status == 413


@dataclass(frozen=True, slots=True)
class Asked:
    """What the upstream was told about a request. ``told``: a trusted peer said the scheme; ``claimed``: a
    peer said https and was not believed; ``reachable``: https can come in here otherwise."""

    scheme: bytes
    hosts: tuple[bytes, ...]
    target: bytes
    told: bool
    claimed: bool
    reachable: bool


def redirect_loop(asked: Asked, status: int, fields: Fields) -> Loop | None:
    """Return how an answer redirects to the URL that was just asked for, if it does.

    From http to https it only counts where https is not to come of it: a peer that said https was not
    believed, or nobody in front and no listener here can say so. Otherwise it is a plain upgrade.
    """
    location = first_value(fields, b"location")
    if status not in REDIRECTS or location is None:
        return None
    try:
        to = urlsplit(location)
    except ValueError:
        return None
    if to.netloc and _plain(to.netloc) not in {_plain(host) for host in asked.hosts}:
        return None
    path, _, query = asked.target.partition(b"?")
    if to.query != query:
        return None
    scheme = to.scheme.lower() or asked.scheme
    if to.path != path:
        return Loop.SLASH if to.path.rstrip(b"/") == path.rstrip(b"/") and scheme == asked.scheme else None
    if scheme == asked.scheme:
        return Loop.ITSELF
    upgrade = asked.scheme == b"http" and not asked.claimed and (asked.told or asked.reachable)
    return None if upgrade else Loop.SCHEME


def _plain(host: bytes) -> bytes:
    return host.lower().removesuffix(b":443").removesuffix(b":80")


@dataclass(slots=True)
class Traffic:
    """The requests of one window: how many were from where.

    Memory: one address a sample, and there is one sample a sweep at most.
    """

    began: float
    requests: int
    suspect: int
    sampled: dict[Hashable, int] = field(default_factory=dict)

    def sample(self, address: Hashable) -> None:
        """The last request came from here."""
        self.sampled[address] = self.sampled.get(address, 0) + 1

    def verdict(self, requests: int, suspect: int) -> tuple[Symptom, Hashable] | None:
        """What the window betrays when ``requests`` and ``suspect`` (those from private addresses) have been
        counted by its end; with the address, if it is one."""
        came = requests - self.requests
        if came < FEWEST_REQUESTS:
            return None
        samples = sum(self.sampled.values())
        address, count = max(self.sampled.items(), key=lambda item: item[1], default=(None, 0))
        single = address if samples >= FEWEST_SAMPLES and count >= MOST * samples else None
        if suspect - self.suspect >= MOST * came:
            return Symptom.PRIVATE, single
        return None if single is None else (Symptom.SINGLE, single)


def is_silent(now: float, began: float, last_well: float | None, last_ill: float | None) -> bool:
    """Has an upstream only failed for long? Moments of one clock; ``None``: never."""
    if last_ill is None or now - last_ill > WINDOW:
        return False
    if last_well is None:
        return now - began >= WINDOW
    return last_ill > last_well and now - last_well >= SILENT
