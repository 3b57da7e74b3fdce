"""Events do not wait for recordings: PostHog takes them by another service, which may be sick alone."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from proxy.spool.inventory import Inventory
from proxy.spool.record import total
from tests.support import servers
from tests.support.curl import curl
from tests.support.storm import wait_for

if TYPE_CHECKING:
    from pathlib import Path

EVENTS, RECORDINGS = 40, 10

pytestmark = pytest.mark.needs("nginx", "curl")


def waiting(spool: Path) -> dict[str, int]:
    """How many records wait, by queue."""
    found = total(file.upstreams for file in Inventory(spool).figures())
    return {name: figures.depth for name, figures in found.items()}


def test_a_sick_service_for_recordings_holds_up_no_event(tmp_path: Path) -> None:
    with (
        servers.nginx("nginx_queues.conf", tmp_path / "nginx") as posthog,
        servers.posthog_proxy(
            f"http://{posthog.authority}", "--spool", tmp_path / "spool", "--spool-mode", "first"
        ) as proxy,
    ):

        def send(path: str, number: int) -> None:
            answer = curl("-d", "{}", "-H", f"X-Number: {number}", f"{proxy.url}{path}")
            assert (answer.status, answer.body) == (200, b'{"status":"Ok"}')

        def taken(path: str) -> list[int]:
            lines = (tmp_path / "nginx" / "asked.log").read_text().splitlines()
            asked = [line.split() for line in lines]
            return [int(number) for status, uri, number in asked if (status, uri) == ("200", path)]

        for number in range(EVENTS):
            if number < RECORDINGS:
                send("/s/", number)
            send("/e/", number)
        wait_for(lambda: len(taken("/e/")) == EVENTS)
        assert taken("/e/") == list(range(EVENTS))  # of one client: in their order
        assert taken("/s/") == []
        wait_for(lambda: waiting(tmp_path / "spool") == {"default/replay": RECORDINGS})
        (tmp_path / "nginx" / "well").touch()
        command = servers.proxy_command("spool", "--spool", tmp_path / "spool", "replay", "--now")
        subprocess.run(command, check=True)
        wait_for(lambda: len(taken("/s/")) == RECORDINGS)
        assert taken("/s/") == list(range(RECORDINGS))
