"""So many in a turn of the loop, in their order."""

from __future__ import annotations

import asyncio

from proxy.spool.pace import Pace


async def test_so_many_in_each_turn() -> None:
    pace, turn, seen = Pace(2), 0, list[tuple[int, int]]()

    async def one(number: int) -> None:
        await pace.turn()
        seen.append((number, turn))

    tasks = [asyncio.create_task(one(number)) for number in range(7)]
    while not all(task.done() for task in tasks):
        turn += 1
        await asyncio.sleep(0)
    assert [number for number, _ in seen] == list(range(7))
    turns = [turn for _, turn in seen]
    assert max(map(turns.count, turns)) == 2
    assert turns[-1] - turns[0] >= 3
    assert repr(pace).startswith("<Pace left=")


async def test_after_a_while_it_is_open_again_and_who_left_takes_no_place() -> None:
    pace = Pace(1)
    await pace.turn()
    first, second, third = (asyncio.create_task(pace.turn()) for _ in range(3))
    await asyncio.sleep(0)
    assert (first.done(), second.done(), third.done()) == (True, False, False)
    second.cancel()
    await third
    assert second.cancelled()
    for _ in range(3):
        await asyncio.sleep(0)
    assert repr(pace) == "<Pace left=1 waiting=0>"
    await pace.turn()
