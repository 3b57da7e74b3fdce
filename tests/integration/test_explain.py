"""The command explains a request as the running command has just treated it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.support import servers
from tests.support.curl import curl

pytestmark = pytest.mark.needs("curl")


def explained(upstream: str, *words: str, stdin: str = "") -> Any:
    command = servers.proxy_command(
        "explain", "--json", "--upstream", upstream, "--trusted-proxies", "127.0.0.1", *words
    )
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=True, env=servers.clean_environment()
    )
    return json.loads(done.stdout)


def test_curl_log_and_upstream_agree() -> None:
    lines = ("X-Forwarded-For: 6.6.6.6, 203.0.113.7", "X_Real_IP: 1.1.1.1", "Accept:", "X-A: b")
    with servers.standin() as upstream, servers.posthog_proxy(upstream) as proxy:
        words = ["-s", *(word for line in lines for word in ("-H", line)), "-A", "me", "-d", "{}"]
        url = f"{proxy.url}/__standin__/echo?a=1"
        came = json.loads(curl(*words, url).body)
        asked = " ".join(["curl", *(f"'{word}'" for word in [*words, url])])
        told = explained(upstream, "--listen", proxy.authority, "--curl", asked)
        (line,) = proxy.access_log(1)
        from_log = explained(upstream, "--listen", proxy.authority, stdin=json.dumps(line))

    went = [(name, value) for name, value in came["fields"] if name != "X-Request-Id"]
    head = [line.partition(": ")[::2] for line in told["upstream_head"].split("\r\n")[1:-2]]
    assert went == [pair for pair in head if pair[0] != "X-Request-Id"]
    assert told["client"]["ip"] == from_log["client"]["ip"] == line["client_ip"] == "203.0.113.7"
    assert told["route"]["name"] == from_log["route"]["name"] == line["route"]
    assert "query" in from_log["left_out"]
