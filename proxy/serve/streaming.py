"""The rest of a large body on its way, up or down: spliced where that is possible, else copied.

Both paths use it, each as a task of its own that ends with the body. Whoever stops taking, leaves or is late
is a ``Failure`` here, and somebody else's business (serve/exchange.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import Failure, Source, late_answer, stuck_upstream
from proxy.wire.bodies import LAST_CHUNK, chunk

if TYPE_CHECKING:
    from proxy.net.exchange import UpstreamExchange
    from proxy.serve.body import RequestBody
    from proxy.serve.connection import Connection
    from proxy.serve.runtime import Runtime


async def send_rest(runtime: Runtime, exchange: UpstreamExchange, body: RequestBody) -> None:
    """Send what is still to come of a request's body. Returns early, with the body not done, if the upstream
    takes no more: who reads the answer finds out why.

    :raises Failure: those of ``RequestBody``, and a 504 when the upstream takes nothing.
    """
    stall = runtime.config.timeouts.write_stall
    target = exchange.bare_sink
    if target is not None:
        try:
            if not await runtime.splicer.move(body, target, stall, stuck_upstream):
                return
        finally:
            runtime.counters.request_bytes_spliced += body.spliced
    while data := await body.read():
        exchange.send_body(data)
        await exchange.drain(stall, stuck_upstream)
    exchange.end_body()


async def relay_rest(
    runtime: Runtime, connection: Connection, exchange: UpstreamExchange, stall: float, *, chunked: bool
) -> None:
    """Give the client what is still to come of an answer's body. ``stall``: seconds in which some of it must
    come; ``chunked``: it is framed anew.

    :raises Failure: those of ``UpstreamExchange.read_body``, a 408 when the client takes nothing, a 499 when
        it left.
    """
    if exchange.over:
        return
    write_stall = runtime.config.timeouts.write_stall
    clock = runtime.clock
    remainder = exchange.remainder(stall, late_answer)
    try:
        standing = await runtime.splicer.move(remainder, connection, write_stall, stuck_client)
    finally:
        runtime.counters.response_bytes_spliced += remainder.spliced
    if not standing:
        raise client_gone()
    while not exchange.over:
        await connection.drain(write_stall, stuck_client)
        data = await exchange.read_body(clock.monotonic() + stall, late_answer)
        connection.write(chunked_piece(data, exchange) if chunked else data)


def chunked_piece(data: bytes, exchange: UpstreamExchange) -> bytes:
    """Frame a piece of the answer; the last one brings the end with it."""
    return (chunk(data) if data else b"") + (LAST_CHUNK if exchange.over else b"")


def client_gone() -> Failure:
    """The client left before its answer was complete: logged as 499, heard by nobody."""
    return Failure(Source.DOWNSTREAM, "client_gone", 499, "the client closed the connection")


def sick_answer(status: int) -> Failure:
    """The upstream's answer says that it is ill (``lease.SICK``)."""
    return Failure(Source.UPSTREAM, "sick_answer", status, f"the upstream answered {status}")


def stuck_client() -> Failure:
    """The client takes nothing more of the answer."""
    return Failure(Source.DOWNSTREAM, "client_write_timeout", 408, "the client stopped reading the answer")
