"""`posthog-proxy demo`: the proxy before the stand-in, a real event through both, then yours.

Two events are sent: one with the Python SDK (where it is installed), one by a client that lies about its
address in every header that PostHog would believe. What arrived is printed; then the demo stays up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import json
import signal
import sys
import textwrap
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.cli import run_until_stopped
from proxy.config.load import config_from
from proxy.config.schema import TcpAddress
from proxy.observe.sinks import open_sink
from proxy.observe.writer import LogWriter
from proxy.server import Proxy
from proxy.standin.page import SERVICES, TOKEN, js_snippet, python_snippet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from proxy.standin.journal import Event
    from proxy.standin.server import Standin

DEFAULT_LISTEN = "127.0.0.1:8000"

LIES = {
    "X-Forwarded-For": "6.6.6.6",
    "Forwarded": "for=6.6.6.6",
    "X-Real-IP": "6.6.6.6",
    "True-Client-IP": "6.6.6.6",
    "CF-Connecting-IP": "6.6.6.6",
    "X-Forwarded-Proto": "https",
}
"""What a client may claim; nobody in front of the demo's proxy is trusted, so none of it is believed."""

ARRIVAL_TIMEOUT = 20.0
"""Seconds within which a sent event has to be at the stand-in."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 after a clean end, 1 where an event was lost or its client address is a lie."""
    parser = argparse.ArgumentParser(
        prog="posthog-proxy demo",
        description="The proxy before a stand-in for PostHog, with a real event sent through.",
    )
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help=f"where the proxy listens (default {DEFAULT_LISTEN})"
    )
    parser.add_argument(
        "--static", type=Path, metavar="FOLDER", help="posthog-js's built files, to serve them"
    )
    parser.add_argument("--once", action="store_true", help="end when the events have arrived")
    options = parser.parse_args(arguments)
    if find_spec("aiohttp") is None:
        print("the demo needs aiohttp: pip install 'posthog-proxy[demo]'", file=sys.stderr)
        return 1
    return run_until_stopped(demonstrate(options.listen, options.static, once=options.once))


async def demonstrate(listen: str | None, static: Path | None, *, once: bool) -> int:
    """The whole demo; ``listen`` ``None``: the default address, or any free port where that is taken."""
    from proxy.standin.server import Standin

    async with Standin(static=static) as standin, _proxy(standin, listen, log=not once) as proxy:
        address = proxy.addresses[0]
        url = f"http://{_reachable(address)}" if isinstance(address, TcpAddress) else str(address)
        print(
            f"posthog-proxy  {url}\nPostHog        {standin.url}  (a stand-in on this machine)\n", flush=True
        )
        honest = await _send_and_show(standin, url)
        if once:
            return 0 if honest else 1
        _print_invitation(url)
        await _signalled()
        print("\nstopping", flush=True)
        await proxy.drain(2)
    return 0 if honest else 1


@contextlib.asynccontextmanager
async def _proxy(standin: Standin, listen: str | None, *, log: bool) -> AsyncIterator[Proxy]:
    """A proxy before ``standin``; with ``log`` each request is a line on standard output."""

    def prepared(address: str) -> Proxy:
        config = config_from({"listen": [address], "upstream": standin.url, "log": {"format": "text"}}).config
        return Proxy(config, access_sink=access, error_sink=errors)

    access = LogWriter(open_sink("stdout" if log else "off"))
    errors = LogWriter(open_sink("stderr" if log else "off"))
    try:
        proxy = prepared(listen or DEFAULT_LISTEN)
        try:
            await proxy.start()
        except OSError as error:
            if listen is not None or error.errno != errno.EADDRINUSE:
                raise
            print(f"{DEFAULT_LISTEN} is taken, any other port will do\n", flush=True)
            proxy = prepared("127.0.0.1:0")
            await proxy.start()
        try:
            yield proxy
        finally:
            await proxy.close()
    finally:
        access.close()
        errors.close()


def _reachable(address: TcpAddress) -> TcpAddress:
    """An address that a client on this machine can use where the proxy listens on all of them."""
    return TcpAddress({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host), address.port)


async def _send_and_show(standin: Standin, url: str) -> bool:
    """Send both events; true if they arrived and every service sees the real client."""
    try:
        if find_spec("posthog") is not None:
            await asyncio.to_thread(send_with_sdk, url)
            [event] = await standin.wait_for_events(1, name="demo", timeout=ARRIVAL_TIMEOUT)
            print("Sent with the Python SDK; PostHog got:")
            _print_event(event)
        await asyncio.to_thread(send_lies, url)
        [event] = await standin.wait_for_events(1, name="lie", timeout=ARRIVAL_TIMEOUT)
    except (OSError, TimeoutError) as error:
        print(f"the event did not arrive: {str(error) or 'no sign of it'}", file=sys.stderr)
        return False
    print("Sent by a client that calls itself 6.6.6.6 in every header that PostHog believes; PostHog got:")
    _print_event(event)
    believed = any("6.6.6.6" in address for address in event.request.ip.values())
    print("The lie was believed." if believed else "The lie was not believed.", flush=True)
    return not believed


def send_with_sdk(url: str) -> None:
    """One event, the way an application sends it."""
    from posthog import Posthog
    from posthog.request import reset_sessions

    client = Posthog(TOKEN, host=url)
    client.capture("demo", distinct_id="demo-user", properties={"sent_by": "posthog-proxy demo"})
    client.shutdown()
    reset_sessions()  # the SDK keeps its connections for ever otherwise


def send_lies(url: str) -> None:
    """One event from a client that would like to be somebody else. Raises ``OSError``."""
    body = json.dumps({"event": "lie", "token": TOKEN, "distinct_id": "liar"}).encode()
    request = urllib.request.Request(f"{url}/e/", body, {"Content-Type": "application/json", **LIES})
    # Straight to the proxy, whatever HTTP_PROXY says.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        answer.read()


def _print_event(event: Event) -> None:
    addresses = (f"{event.request.ip[name]} ({label})" for name, label in SERVICES.items())
    lines = [f"{name}: {value}" for name, value in event.request.fields]
    print(
        f"  event    {event.name!r} of {event.distinct_id!r}, {event.request.method} {event.request.target}"
    )
    print(f"  client   {', '.join(addresses)}")
    print(f"  headers  {lines[0]}")
    print(textwrap.indent("\n".join(lines[1:]), " " * 11) + "\n", flush=True)


def _print_invitation(url: str) -> None:
    print(f"\nWhat arrives is shown at  {url}/__standin__/\n")
    print(f"Your own SDK: set its host to {url}, for example in Python:\n")
    print(textwrap.indent(python_snippet(url), "    "))
    print("\nor in a web page:\n")
    print(textwrap.indent(js_snippet(url), "    "))
    print("\nCtrl-C ends the demo. Requests from now on:\n", flush=True)


async def _signalled() -> None:
    """Until SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
