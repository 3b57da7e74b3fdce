"""Where the proxy listens and what it speaks there: `[[listeners]]`, and the short forms of it."""

# ruff: noqa: RUF009 -- `key` is dataclasses.field with metadata.
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxy.config.declaration import key
from proxy.config.values import IPNetwork, ListenAddress, ListenerMode

if TYPE_CHECKING:
    from proxy.config.schema import Config


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """`[[listeners]]`: one address that speaks more than plain HTTP. Plain ones can stand in `listen`."""

    address: ListenAddress = key(doc="Where to listen: HOST:PORT (port 0: any free one) or unix:/path.")
    mode: ListenerMode = key(
        ListenerMode.HTTP,
        doc="What comes in: HTTP, or any bytes (tcp), which are passed on as they are.",
        why="Everything that the proxy knows is about HTTP.",
    )
    tls: bool = key(
        False, doc="Speak TLS, with `[[certificates]]`.", why="Plain HTTP is what a balancer in front sends."
    )
    proxy_protocol: tuple[IPNetwork, ...] = key(
        (),
        doc="Peers that must begin each connection with a PROXY protocol header (v1 or v2), which then names "
        "the client; all others must not. Peers on a Unix socket have no address: any entry means them all.",
        why="Whoever may send it chooses the address that is believed; so nobody does unless listed.",
    )
    upstream: str = key(
        "", form="upstream", doc="tcp mode: the upstream that everything goes to; empty: the default one."
    )


def configured_listeners(config: Config) -> tuple[ListenerConfig, ...]:
    """Return all listeners: those of the short forms first (``listen``, ``listen_tls``), then ``listeners``.
    One that names no peers with a PROXY header has those of `[[fronts]]` that speak it."""
    fronts = tuple(network for front in config.fronts if front.proxy_protocol for network in front.networks)
    listeners = (
        *(ListenerConfig(address) for address in config.listen),
        *(ListenerConfig(address, tls=True) for address in config.listen_tls),
        *config.listeners,
    )
    return tuple(
        listener if listener.proxy_protocol or not fronts else replace(listener, proxy_protocol=fronts)
        for listener in listeners
    )
