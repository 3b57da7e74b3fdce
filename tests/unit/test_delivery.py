"""The spool's life in a proxy, with a real store."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from proxy.config.load import config_from
from proxy.delivery import TEND_INTERVAL, Delivery, beside_others
from proxy.errors import ConfigError
from proxy.server import Proxy
from proxy.spool.record import Tended
from tests.support.keeping import Kept
from tests.support.play import Play

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.rules.steps import Steps

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EVENT = b"POST /e/ HTTP/1.1\r\nHost: ph.example\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize("mode", ["first", "fallback"])
async def test_what_posthog_did_not_take_it_takes_after_a_restart(mode: str, tmp_path: Path) -> None:
    spool = {"directory": str(tmp_path / "spool"), "mode": mode, "commit_interval": 0}
    alone = {"pool": {"retries": 0}, "health": {"breaker": False}}
    async with Play(spool=spool, **alone) as play:
        await play.stop_upstream()
        client = await play.client()
        client.say(EVENT)
        status, _, body = await client.hear_answer()
        assert (status, body) == (200, b'{"status":"Ok"}')
        play.clock.now += 7
        gauges = play.proxy.snapshot()
        assert gauges["posthog_proxy_spool_requests"] == 1
        assert gauges["posthog_proxy_spool_oldest_seconds"] == 7
    async with Play(spool=spool, **alone) as play:
        upstream = await play.upstream()
        head = await upstream.hear_head()
        assert head.startswith(b"POST /e/ HTTP/1.1\r\nHost: ph.example\r\n")
        upstream.say(OK)
        await play.until(lambda: bool(play.proxy.counters.spool_replayed))
        assert play.proxy._delivery is not None
        keeper = play.proxy._delivery.keeper
        assert play.proxy.snapshot()["posthog_proxy_spool_dead_letters"] == 0
        await play.until(lambda: keeper.figures().depth == 0)
    async with Play(spool=spool, **alone) as play:
        assert play.proxy._delivery is not None
        assert play.proxy._delivery.keeper.figures().depth == 0


async def test_a_directory_that_cannot_be_used_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spool = {"directory": str(tmp_path / "file")}
    config = config_from({"listen": "127.0.0.1:0", "upstream": "http://127.0.0.1:1", "spool": spool}).config
    proxy = Proxy(config)
    with pytest.raises(ConfigError, match=r"spool\.directory = .*file.*: cannot be used: "):
        await proxy.start()
    await proxy.close()


async def test_files_are_looked_after_and_wishes_heard() -> None:
    kept = Kept()
    async with Play() as play:
        delivery = Delivery(play.proxy._runtime, kept)
        delivery.start()
        wishes: list[str] = []
        delivery.replay.now = lambda: wishes.append("now")  # type: ignore[method-assign]
        kept.tended = Tended(adopted=2, replay_now=True, notices=("x.db is damaged",))
        await asyncio.sleep(0)  # it sleeps now
        await asyncio.sleep(0)
        play.turn(TEND_INTERVAL + 0.1)
        await play.until(lambda: bool(wishes))
        play.proxy.sweep()
        said = [json.loads(line) for line in play.errors.splitlines()]
        assert [(line["event"], line.get("detail"), line.get("files")) for line in said] == [
            ("spool", "x.db is damaged", None),
            ("spool_adopted", None, 2),
        ]
        await delivery.end()
        assert kept.closed


async def test_long_work_lets_others_have_their_turn() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def work() -> Steps[list[object]]:
        seen: list[object] = []
        for _ in range(5):
            yield None
            seen.append(turns)
        seen.append((yield threading.current_thread))
        return seen

    other = asyncio.create_task(count_turns())
    with ThreadPoolExecutor(1, "elsewhere") as thread:
        *seen, where = await beside_others(work(), thread)
    other.cancel()
    assert seen == [1, 2, 3, 4, 5]
    assert isinstance(where, threading.Thread)
    assert where.name.startswith("elsewhere")
