"""What the proxy needs of one request and its answer on an upstream connection, whatever carries it.

Over HTTP/1.1 the exchange has the connection to itself; over HTTP/2 it will be one stream of many.
The pool hands exchanges out (``Lease``), so callers never learn which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.errors import Failure
    from proxy.message import RequestHead, ResponseHead
    from proxy.net.splice import Remainder
    from proxy.net.stream import Stream


class UpstreamExchange(Protocol):
    """One request sent, one answer read. Each method but ``abort`` raises ``Failure`` (source
    UPSTREAM) when the connection or the peer's bytes do not allow it to go on."""

    @property
    def answered(self) -> bool:
        """True once a byte of the answer was seen: from then on the request is never sent again."""
        ...

    @property
    def reusable(self) -> bool:
        """True when the request was sent whole and the answer read to its exact end, so that the
        connection may carry another exchange."""
        ...

    @property
    def over(self) -> bool:
        """True once the answer was read to its end."""
        ...

    def send_head(self, head: bytes, request: RequestHead, first_body: bytes, complete: bool) -> None:
        """Send the rendered head with the first body bytes in one write. ``complete``: these are
        all. ``request`` tells framing and method."""
        ...

    def was_sent(self, method: bytes, *, complete: bool) -> None:
        """The request was written to the connection already (by the fast path), or if it is not ``complete``
        its beginning, of a body that stands bare."""
        ...

    def was_answered(self, head: ResponseHead, count: int) -> None:
        """The final head was read already (by the fast path), and ``count`` bytes of the body."""
        ...

    def send_body(self, data: bytes) -> None:
        """Queue more decoded body bytes (framed here)."""
        ...

    def end_body(self) -> None:
        """The request body is complete."""
        ...

    async def drain(self, stall: float, late: Callable[[], Failure]) -> None:
        """Wait until the queue towards the upstream is short again (see ``Stream.drain``)."""
        ...

    @property
    def bare_sink(self) -> Stream | None:
        """The stream on which the request body's bytes stand as they are, ``None`` where they are framed.
        Whoever writes to it directly writes body bytes."""
        ...

    def passed(self, count: int) -> bool:
        """So many more bytes of the body went another way, as they stood; false: there are not so many, and
        nothing is changed."""
        ...

    async def read_head(self, due: float, late: Callable[[], Failure]) -> ResponseHead:
        """Return the next head: an interim 1xx, 101, or the final one."""
        ...

    def take_body(self) -> bytes:
        """Return the body bytes that are here already, without waiting; ``b""``: none."""
        ...

    def tell_body(self, sink: Callable[[bytes], None]) -> None:
        """Give ``sink`` all body bytes too, from now on; then none can be taken past this exchange."""
        ...

    async def read_body(self, due: float, late: Callable[[], Failure]) -> bytes:
        """Return some body bytes; ``b""`` once the answer is complete."""
        ...

    def remainder(self, stall: float, late: Callable[[], Failure]) -> Remainder:
        """What is left of the answer's body, to be taken past this exchange where it stands bare.
        ``stall``: seconds in which some of it must come, else ``late()``."""
        ...

    def detach(self) -> Stream:
        """After a 101: give up the stream itself, for a tunnel. The exchange is over."""
        ...

    def abort(self) -> None:
        """Give up: the connection (or stream) is cut at once. Idempotent."""
        ...
