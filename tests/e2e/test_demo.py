"""`posthog-proxy demo`, which is all that `make run` does: a real event through the proxy, then yours."""

from __future__ import annotations

import json
import signal
import urllib.request

import pytest
from posthog import Posthog
from posthog.request import reset_sessions

from tests.support.process import Process
from tests.support.servers import clean_environment, proxy_command


def demo(*arguments: str) -> Process:
    """The demo on a free port."""
    command = proxy_command("demo", "--listen", "127.0.0.1:0", *arguments)
    return Process(command, name="demo", env=clean_environment())


def test_once_prints_what_arrived_and_ends() -> None:
    with demo("--once") as process:
        assert process.wait() == 0, process.report()
        said = "\n".join(process.stdout)

    assert "event    'demo' of 'demo-user', POST /batch/" in said
    assert "User-Agent: posthog-python/" in said
    assert said.count("client   127.0.0.1 (ingestion), 127.0.0.1 (feature flags)") == 2
    assert "The lie was not believed." in said
    assert process.stderr == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stays_up_for_the_users_own_sdk(number: signal.Signals) -> None:
    with demo() as process:
        url = process.wait_for_lines(r"set its host to (http://\S+),", stream="stdout")[0].group(1)
        process.wait_for_lines("Ctrl-C ends the demo", stream="stdout")
        client = Posthog("phc_mine", host=url)
        client.capture("mine", distinct_id="me")
        client.shutdown()
        reset_sessions()
        with urllib.request.urlopen(f"{url}/__standin__/events", timeout=10) as answer:
            events = json.load(answer)
        process.send_signal(number)
        assert process.wait() == 0, process.report()

    [mine] = [event for event in events if event["token"] == "phc_mine"]
    assert (mine["event"], mine["distinct_id"], mine["ip"]) == ("mine", "me", "127.0.0.1")
