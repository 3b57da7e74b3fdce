"""posthog-proxy: the reverse proxy that knows PostHog.

The embedding API::

    import proxy

    config = proxy.config_from({"listen": ["127.0.0.1:0"], "upstream": "http://127.0.0.1:8001"}).config
    async with proxy.Proxy(config) as p:
        print(p.addresses)
        ...
        await p.drain()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.config.load import config_from
    from proxy.errors import ConfigError
    from proxy.server import Proxy

__all__ = ["ConfigError", "Proxy", "config_from"]

_HOMES = {"ConfigError": "proxy.errors", "Proxy": "proxy.server", "config_from": "proxy.config.load"}


def __getattr__(name: str) -> object:
    # Looked up on first use, so that `import proxy.config` does not load the whole server.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
