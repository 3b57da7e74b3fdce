"""posthog-proxy inside another asyncio program: two proxies in one event loop.

Run it with an upstream of your own::

    python examples/embed.py http://127.0.0.1:8001

It listens on two free ports, prints them, serves until its standard input ends, and drains.
"""

from __future__ import annotations

import asyncio
import sys

import proxy


async def main(upstream: str) -> None:
    """Serve the same upstream twice: once plainly, once with anonymised client addresses."""
    plain = proxy.config_from({"listen": ["127.0.0.1:0"], "upstream": upstream}).config
    private = proxy.config_from(
        {"listen": ["127.0.0.1:0"], "upstream": upstream, "forwarding": {"anonymise": True}}
    ).config

    async with proxy.Proxy(plain, access_sink=sys.stdout.buffer.write) as one, proxy.Proxy(private) as two:
        print("plain", *one.addresses, flush=True)
        print("anonymised", *two.addresses, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await asyncio.gather(one.drain(5), two.drain(5))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
