"""`python -m proxy.standin --listen HOST:PORT`: the stand-in as a process of its own.

Prints `ready URL` on a line of its own once it takes connections; ends at SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.config.notation import NotationError
from proxy.standin.server import Standin

if TYPE_CHECKING:
    from collections.abc import Sequence


async def run(listen: str, static: Path | None, journal: Path | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Standin(listen, static=static, journal=journal) as standin:
        print(f"ready {standin.url}", flush=True)
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m proxy.standin", description="A stand-in for PostHog.")
    parser.add_argument("--listen", default="127.0.0.1:0", help="HOST:PORT or unix:/path")
    parser.add_argument("--static", type=Path, help="folder with posthog-js's built files")
    parser.add_argument("--journal", type=Path, help="file that gets a line for each event")
    options = parser.parse_args(arguments)
    try:
        asyncio.run(run(options.listen, options.static, options.journal))
    except (OSError, NotationError) as error:
        print(f"cannot listen on {options.listen}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
