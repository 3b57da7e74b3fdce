"""The process around a ``Proxy``: log files, signals, exit codes. What `posthog-proxy run` calls."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from proxy.config.schema import LogLevel
from proxy.observe.log import file_sink
from proxy.observe.writer import LogWriter
from proxy.server import Proxy

if TYPE_CHECKING:
    from proxy.config.schema import Config


async def serve(config: Config, warnings: tuple[str, ...] = ()) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return the exit code.

    0 after a drain; 128 + the signal's number when a second signal came meanwhile and everything was
    cut. Each listener's address is one `listening` line of the error log, so that a supervisor (and
    whoever asked for port 0) can read it.

    :raises OSError: an address cannot be bound, or a log file not opened.
    """
    access = LogWriter(file_sink(config.log.access))
    errors = LogWriter(file_sink(config.log.errors))
    try:
        proxy = Proxy(config, access_sink=access, error_sink=errors)
        for warning in warnings:
            proxy.error(LogLevel.WARNING, "configuration", detail=warning)
        async with proxy:
            for address in proxy.addresses:
                proxy.error(LogLevel.INFO, "listening", address=str(address))
            return await _until_signalled(proxy)
    finally:
        access.close()
        errors.close()


async def _until_signalled(proxy: Proxy) -> int:
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    try:
        first = await signals.get()
        proxy.error(LogLevel.INFO, "draining", signal=first.name)
        draining = loop.create_task(proxy.drain())
        again = loop.create_task(signals.get())
        await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
        if draining.done():
            again.cancel()
            draining.result()
            proxy.error(LogLevel.INFO, "stopped")
            return 0
        draining.cancel()
        second = again.result()
        proxy.error(LogLevel.WARNING, "stopped_at_once", signal=second.name)
        return 128 + second
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
