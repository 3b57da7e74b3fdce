"""An hour without PostHog at 200 events a second, by a clock that is turned by hand: 720,000 events in
batches of a thousand, kept in a real store; then it is back, and each of them happens when it happened."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from proxy.standin.bodies import decode
from proxy.standin.timing import event_time, iso, parse_time
from tests.support.play import Play

if TYPE_CHECKING:
    from pathlib import Path

BATCHES, EACH, PAUSE = 720, 1000, 5.0


class Outage(Play):
    """A play whose upstream hangs up, until it is ``back``; then it takes everything, and ``heard`` has what
    it heard with the time that it had."""

    back = False

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.heard: list[tuple[float, bytes]] = []

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while self.back:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                assert length is not None
                self.heard.append((self.clock.wall(), await reader.readexactly(int(length[1]))))
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"Ok"}')
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


def batch(number: int, moment: float) -> bytes:
    """Events of the last five seconds about one person, by a clock that is a day wrong."""
    wrong = moment + 86_400
    events = [
        {"event": "e", "uuid": f"{number}-{each}", "timestamp": iso(wrong - PAUSE * each / EACH)}
        for each in range(EACH)
    ]
    whole = {"api_key": "phc_x", "distinct_id": "one", "batch": events, "sent_at": iso(wrong)}
    return json.dumps(whole).encode()


async def test_an_hour_at_200_events_a_second(tmp_path: Path) -> None:
    spool = {"directory": str(tmp_path / "spool"), "commit_interval": 0}
    quick = {"pool": {"retries": 0}, "health": {"open_max": 60}}
    async with Outage(spool=spool, limits={"requests_per_connection": 100_000}, **quick) as play:
        sent: dict[str, float] = {}
        for number in range(BATCHES):
            moment = sent[str(number)] = play.clock.wall()
            body = batch(number, moment)
            if number % 60 == 0:  # no connection lives for an hour
                client = await play.client()
            head = b"POST /batch/ HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
            client.say(head + body)
            status, _, answer = await client.hear_answer()
            assert (status, answer) == (200, b'{"status":"Ok"}')
            play.turn(PAUSE)
        assert play.heard == []
        assert play.proxy.snapshot()["posthog_proxy_spool_requests"] == BATCHES
        assert play.proxy.snapshot()["posthog_proxy_spool_oldest_seconds"] == BATCHES * PAUSE
        play.back = True
        delivery = play.proxy._delivery
        assert delivery is not None
        feeder = delivery.replay._feeders["default"]
        async with asyncio.timeout(60):
            while delivery.keeper.figures().depth:
                if feeder._pausing:
                    play.turn(PAUSE)
                await asyncio.sleep(0.001)
    judge(play.heard, sent)


def judge(heard: list[tuple[float, bytes]], sent: dict[str, float]) -> None:
    """By PostHog's rule, as the stand-in has it."""
    numbers = []
    for arrived, body in heard:
        payload = decode(body, "")
        number = str(payload.events[0]["uuid"]).partition("-")[0]
        numbers.append(number)
        assert len(payload.events) == EACH
        for each in (0, EACH // 2, EACH - 1):
            happened = sent[number] - PAUSE * each / EACH
            timestamp = parse_time(payload.events[each]["timestamp"])
            assert abs(event_time(arrived, timestamp, parse_time(payload.sent_at)) - happened) < 1
    assert set(numbers) == sent.keys()
    assert numbers == sorted(numbers, key=int)  # one person: in the order of their arrival
