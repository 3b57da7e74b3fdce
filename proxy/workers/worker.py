"""A worker process: ``python -P -m proxy.workers.worker NUMBER CHANNEL SETTINGS TURNS``.

The last three are descriptors that the parent leaves open: the channel, what the operator said
(``Sources.pack``), the lock file of the logs. The worker reads its configuration from there, says that it is
ready, accepts on the sockets that it is handed, and pushes its counters, until it is told to end or the
parent is gone. Signals are the parent's business: whoever sends one to the whole process group or
control group (a terminal, systemd) reaches the parent too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from proxy.cli import loop_factory
from proxy.config.notation import listen_address
from proxy.config.schema import LogLevel
from proxy.config.sources import Sources
from proxy.errors import ConfigError, described
from proxy.net.listen import Listener
from proxy.observe.turns import Turns
from proxy.observe.writer import Logs, reopen_logs
from proxy.server import Proxy
from proxy.workers import worker_count
from proxy.workers.channel import (
    Accept,
    Alive,
    Channel,
    Close,
    Counted,
    Drain,
    Failed,
    Handed,
    Keep,
    Ready,
    Reopen,
    Reported,
    Retired,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.config.schema import Config
    from proxy.observe.metrics import Snapshot
    from proxy.observe.report import Report
    from proxy.workers.channel import Message

PUSH_INTERVAL = 1.0
"""Seconds between two pushes of counters: so much of its counting is lost with a worker that is killed."""

FAREWELL = 5.0
"""Seconds for the last push."""


class Worker:
    """One proxy that does what the parent says."""

    def __init__(self, channel: Channel, proxy: Proxy, logs: Logs) -> None:
        self._channel = channel
        self._proxy = proxy
        self._logs = logs
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._listeners: dict[int, Listener] = {}
        self._drains: set[asyncio.Task[None]] = set()
        self._pushed: Snapshot = {}
        self._reported: Report | None = None

    async def run(self) -> None:
        """Serve until told to end. The proxy is open; whoever opened it closes it."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._hear)
        try:
            self._channel.send(Ready())
            self._push_again()
            while not isinstance(message := await self._messages.get(), Close):
                await self._obey(message)
        finally:
            loop.remove_reader(self._channel.fileno())
            self._ticker.cancel()
            self._forget(keep=())

    def last_push(self) -> None:
        """Tell the parent what was counted to the end."""
        self._channel.finish(Counted(self._proxy.snapshot()), FAREWELL)

    def _hear(self) -> None:
        for message in self._channel.receive():
            self._messages.put_nowait(message)
        if self._channel.ended:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._proxy.error(LogLevel.ERROR, "parent_gone")
            self._messages.put_nowait(Drain(handover=False))

    async def _obey(self, message: Message) -> None:
        if isinstance(message, Handed):
            sock = socket.socket(fileno=message.descriptor)
            self._listeners[message.number] = Listener(sock, listen_address(message.address), message.entry)
        elif isinstance(message, Accept) and not self._drains:
            await self._proxy.listen_on([self._listeners[number] for number in message.numbers])
            self._forget(keep=message.numbers)
        elif isinstance(message, Keep):
            self._proxy.log_level = LogLevel(message.level)
        elif isinstance(message, Reopen):
            reopen_logs(self._logs.reopen, self._proxy.error)
        elif isinstance(message, Drain):
            if message.handover:
                # Sockets that the new configuration has no more are to be closed by all who have them.
                await self._proxy.listen_on(())
                self._forget(keep=())
                self._channel.send(Retired())
            task = asyncio.get_running_loop().create_task(self._proxy.drain(handover=message.handover))
            self._drains.add(task)
            task.add_done_callback(self._drained)

    def _drained(self, task: asyncio.Task[None]) -> None:
        self._messages.put_nowait(Close())
        if not task.cancelled():
            task.result()

    def _forget(self, keep: Sequence[int]) -> None:
        for number in self._listeners.keys() - set(keep):
            self._listeners.pop(number).close()

    def _push_again(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(PUSH_INTERVAL, self._push_again)
        snapshot, report = self._proxy.snapshot(), self._proxy.report()
        if not self._channel.behind:
            self._channel.send(Alive())
        if snapshot != self._pushed and not self._channel.behind:
            self._channel.send(Counted(snapshot))
            self._pushed = snapshot
        if report != self._reported and not self._channel.behind:
            self._channel.send(Reported(report))
            self._reported = report


async def work(number: int, config: Config, channel: Channel, turns: Turns) -> None:
    """Open the logs and the proxy, and serve. Raises ``OSError`` or ``ConfigError`` if that cannot be."""
    logs = Logs(config.log, turns)
    try:
        proxy = Proxy(
            config,
            listeners=(),
            access_sink=logs.access,
            error_sink=logs.errors,
            error_fields={"worker": number},
            worker=number,
            share=worker_count(config),
        )
        worker = Worker(channel, proxy, logs)
        async with proxy:
            await worker.run()
        worker.last_push()
    finally:
        logs.close()


def main(arguments: Sequence[str]) -> int:
    """Be a worker; return the exit status."""
    for unheard in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(unheard, signal.SIG_IGN)
    number, channel_descriptor, settings, turns = map(int, arguments)
    channel = Channel(socket.socket(fileno=channel_descriptor))
    try:
        # All workers have the same open file: none may move its offset.
        said = os.pread(settings, os.fstat(settings).st_size, 0)
        os.close(settings)
        config = Sources.unpack(said).load(os.environ).config
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(work(number, config, channel, Turns(turns)))
    except (OSError, ConfigError) as error:
        channel.finish(Failed(described(error)), FAREWELL)
        return 1
    finally:
        channel.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
