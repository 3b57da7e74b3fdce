"""What is kept outlives changes around it, with real processes: another number of workers, by a reload or a
restart, and a PostHog that comes back at another address."""

from __future__ import annotations

import json
import time
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest

from proxy.spool.inventory import Inventory
from tests.support.storm import Acknowledged, Arrivals, Site, all_there, iso, wait_for

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "phc_moves"
MOST_SENT = 500
"""Connections until each of four workers has had one: the kernel spreads them by their ports."""


class Sender:
    """Sends events, each over a connection of its own, so that any worker may get it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.acknowledged: dict[str, Acknowledged] = {}

    def send(self) -> None:
        """One event, by a clock that is an hour wrong; it must be acknowledged."""
        number, moment = len(self.acknowledged), time.time()
        uuid, ip = f"00000000-0000-4000-8000-{number:012}", f"203.0.113.{number % 250}"
        wrong = iso(moment + 3600)
        event = {"token": TOKEN, "event": "moved", "distinct_id": "one", "uuid": uuid, "timestamp": wrong}
        connection = HTTPConnection("127.0.0.1", self._site.port, timeout=30)
        try:
            headers = {"X-Forwarded-For": ip}
            connection.request("POST", "/e/", json.dumps({**event, "sent_at": wrong}).encode(), headers)
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())) == (200, {"status": "Ok"})
        finally:
            connection.close()
        self.acknowledged[uuid] = Acknowledged(uuid, moment, time.time(), ip)

    def fill(self, files: int) -> None:
        """Send until so many files hold something."""
        while len(holding(self._site)) < files:
            self.send()
            assert len(self.acknowledged) < MOST_SENT

    def judge(self, arrivals: Arrivals) -> None:
        """Everything has arrived, as what it was."""
        wait_for(lambda: all_there(arrivals, self.acknowledged))
        for uuid, sent in self.acknowledged.items():
            for *_, moment, ip in arrivals.seen[uuid]:
                assert ip == sent.ip
                assert sent.sent - 1 < moment < sent.told + 1


def holding(site: Site) -> set[str]:
    """The files with records."""
    return {file.name for file in Inventory(site.spool).figures() if file.upstreams}


@pytest.mark.parametrize(
    ("before", "after", "how"),
    [(3, 1, "reload"), (2, 3, "reload"), (1, 3, "restart")],
)
def test_another_number_of_workers(before: int, after: int, how: str, tmp_path: Path) -> None:
    with Site(tmp_path, "fallback", before) as site:
        site.kill_posthog()
        sender = Sender(site)
        sender.fill(before)
        site.workers = after
        change(site, how)
        sender.fill(after)
        site.start_posthog()
        sender.judge(Arrivals(site.journal))
        wait_for(lambda: not holding(site))
        site.stop_proxy()
        assert list(site.spool.glob("*.spool*")) == []  # those of workers that are gone, too


@pytest.mark.parametrize("how", ["reload", "restart"])
def test_posthog_comes_back_elsewhere(how: str, tmp_path: Path) -> None:
    with Site(tmp_path, "fallback", 2) as site:
        site.kill_posthog()
        sender = Sender(site)
        sender.fill(2)
        site.move_posthog()
        site.start_posthog()
        change(site, how)
        sender.judge(Arrivals(site.journal))


def change(site: Site, how: str) -> None:
    """Have the proxy work with what was changed."""
    if how == "restart":
        site.stop_proxy()
        site.start_proxy()
    else:
        site.reload()
        assert site.proxy is not None
        site.proxy.wait_for_lines(r'"event": ?"reloaded"')
