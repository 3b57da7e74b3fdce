"""An upstream that was away and listens again is asked at once, however long its breaker would wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import servers
from tests.support.curl import curl
from tests.support.storm import wait_for

if TYPE_CHECKING:
    from pathlib import Path

FAILURES = 5
"""After which the breaker opens."""

pytestmark = pytest.mark.needs("nginx", "curl")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_nginx_is_restarted(workers: str, tmp_path: Path) -> None:
    with servers.nginx("nginx_queues.conf", tmp_path) as nginx:
        port = nginx.ports["port"]
    settings = ["--set", "health.open_min=10m", "--set", "health.open_max=10m", "--set", "pool.retries=0"]
    with servers.posthog_proxy(f"http://127.0.0.1:{port}", "--workers", workers, *settings) as proxy:

        def answers() -> set[int]:
            """As many as open the breaker of each worker."""
            asked = (curl("-d", "{}", f"{proxy.url}/e/") for _ in range(FAILURES * int(workers)))
            return {answer.status for answer in asked}

        wait_for(lambda: answers() == {503})
        with servers.nginx("nginx_queues.conf", tmp_path, port=port):
            wait_for(lambda: answers() == {200})
