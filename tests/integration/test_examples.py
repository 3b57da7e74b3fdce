"""The examples do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from proxy.cli import main
from tests.support.wire import RawUpstream, exchange

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SYSTEMD = ROOT / "systemd"


def test_embed_serves_two_proxies_in_one_loop_and_drains() -> None:
    with RawUpstream() as upstream:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "embed.py"), upstream.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            ports = {}
            for _ in range(2):
                name, address = process.stdout.readline().split()
                ports[name] = int(address.rpartition(":")[2])
            seen = {}
            for name, port in ports.items():
                answer = exchange(
                    ("127.0.0.1", port), b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
                )
                assert answer.status == 200
                seen[name] = upstream.next_request().values("X-Forwarded-For")
            assert seen == {"plain": [b"127.0.0.1"], "anonymised": [b"127.0.0.0"]}
            rest, _ = process.communicate("", timeout=20)
            assert process.returncode == 0
            assert '"status":200' in rest  # the access log of the plain one
        finally:
            process.kill()
            process.wait()


def test_the_service_starts_what_exists_with_a_configuration_that_is_valid() -> None:
    unit = (SYSTEMD / "posthog-proxy.service").read_text()
    starts = re.findall(
        r"^ExecStart(?:Pre)?=/usr/local/bin/posthog-proxy (\w+) --config (\S+)$", unit, re.MULTILINE
    )
    assert [command for command, _ in starts] == ["check", "run"]
    for _, config in starts:
        assert main(["check", "--config", str(SYSTEMD / Path(config).name)]) == 0
