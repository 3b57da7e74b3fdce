"""The detectors: what the rules find betrayed is counted, and said once in a while with its cure.

Answers are looked at on the general path alone: one that may betray anything is not for the fast path
(wire/fasthead). Of addresses one is looked at for each sweep: whoever serves a request leaves its client's in
``last_client``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.config.schema import LogLevel, configured_listeners
from proxy.message import first_value
from proxy.observe.log import logged_path
from proxy.rules.claims import claims
from proxy.rules.symptoms import (
    CURES,
    WINDOW,
    Asked,
    Symptom,
    Traffic,
    is_page_for_sdk,
    is_replay_cut_off,
    is_silent,
    redirect_loop,
)

if TYPE_CHECKING:
    from collections.abc import Hashable

    from proxy.message import EndpointClass, Forward, RequestHead, ResponseHead
    from proxy.observe.report import Warned
    from proxy.rules.symptoms import Loop
    from proxy.serve.runtime import Runtime

SAY_INTERVAL = 60.0
"""Seconds between two lines about the same."""

SAY_INTERVAL_CLIENTS = 3600.0
"""The same about addresses: where one server sends everything, nothing is wrong."""


class Symptoms:
    """The detectors of one process."""

    def __init__(self, runtime: Runtime) -> None:
        self.last_client: Hashable = None
        self._runtime = runtime
        self.found: dict[str, Warned] = {}
        """What was seen last of each symptom, for the status page."""
        self._said: dict[Symptom | Loop, float] = {}
        self._began = self._minute = runtime.clock.monotonic()
        self._traffic = self._window(self._began)
        self._tls = any(listener.tls for listener in configured_listeners(runtime.config))

    def __repr__(self) -> str:
        return f"<Symptoms said={sorted(symptom.value for symptom in self._said)}>"

    def answered(self, head: RequestHead, forward: Forward, answer: ResponseHead) -> None:
        """An upstream has answered."""
        route, counters = forward.route, self._runtime.counters
        if is_page_for_sdk(route.cls, answer.status, answer.fields):
            counters.html_on_sdk_path.add(route.name, route.upstream)
            self._say(Symptom.HTML, _about(forward, answer))
        self.cut_off(route.cls, answer.status)
        if first_value(answer.fields, b"location") is not None:
            loop = redirect_loop(self._asked(head, forward), answer.status, answer.fields)
            if loop is not None:
                counters.redirect_loops.add(loop.value)
                self._say(Symptom.REDIRECT, {**_about(forward, answer), "kind": loop.value}, loop)

    def cut_off(self, cls: EndpointClass, status: int) -> None:
        """A request was refused or answered with ``status``."""
        if is_replay_cut_off(cls, status):
            self._runtime.counters.replay_too_large += 1
            self._say(Symptom.REPLAY, {"limit": self._runtime.config.limits.body_replay})

    def _asked(self, head: RequestHead, forward: Forward) -> Asked:
        sent = forward.fields
        claimed = first_value(head.fields, b"x-forwarded-proto") or b""
        scheme = first_value(sent, b"x-forwarded-proto") or b"http"
        hosts = (first_value(sent, b"x-forwarded-host"), first_value(sent, b"host"))
        return Asked(
            scheme=scheme,
            hosts=tuple(host for host in hosts if host),
            target=forward.target,
            told=claims(head.fields, forward.client).proto is not None,
            claimed=scheme == b"http" and b"https" in claimed.lower(),
            reachable=self._tls,
        )

    # The sweep.

    def sweep(self, now: float) -> None:
        """Take a sample; once a minute, judge."""
        if self.last_client is not None:
            self._traffic.sample(self.last_client)
            self.last_client = None
        if now - self._minute >= WINDOW:
            self._minute = now
            self._judge_clients(now)
            self._judge_upstreams(now)

    def _window(self, now: float) -> Traffic:
        counters = self._runtime.counters
        return Traffic(now, sum(counters.requests.values()), counters.client_ip_suspect)

    def _judge_clients(self, now: float) -> None:
        traffic, self._traffic = self._traffic, self._window(now)
        verdict = traffic.verdict(self._traffic.requests, self._traffic.suspect)
        if verdict is None:
            return
        symptom, address = verdict
        if address is not None:
            self._runtime.counters.one_client_ip += 1
        client = "" if address is None else str(address)
        self._say(symptom, {"client": client}, every=SAY_INTERVAL_CLIENTS)

    def _judge_upstreams(self, now: float) -> None:
        for name, pool in self._runtime.pools.items():
            if is_silent(now, self._began, pool.last_well, pool.last_ill):
                self._runtime.counters.upstream_without_success.add(name)
                self._say(Symptom.SILENT, {"upstream": name, "url": str(pool.upstream.url)})

    def _say(
        self,
        symptom: Symptom,
        about: dict[str, object],
        loop: Loop | None = None,
        *,
        every: float = SAY_INTERVAL,
    ) -> None:
        now = self._runtime.clock.monotonic()
        what = loop or symptom
        self.found[what.value] = {
            "event": symptom.value,
            "at": self._runtime.clock.wall(),
            "about": {name: str(value) for name, value in about.items()},
            "cure": CURES[what],
        }
        if now - self._said.get(what, -every) >= every:
            self._said[what] = now
            self._runtime.error(LogLevel.WARNING, symptom.value, **about, cure=CURES[what])


def _about(forward: Forward, answer: ResponseHead) -> dict[str, object]:
    return {
        "route": forward.route.name,
        "upstream": forward.route.upstream,
        "path": logged_path(forward.target).decode("ascii", "backslashreplace"),
        "status": answer.status,
    }
