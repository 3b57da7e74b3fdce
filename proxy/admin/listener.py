"""The admin listener as a whole: what a process owns."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, TypeVar

from proxy.clock import NEVER
from proxy.config.admin import read_token
from proxy.config.schema import LogLevel, UnixAddress
from proxy.errors import described

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection

    from proxy.admin.endpoints import Endpoints, Facts
    from proxy.admin.exchange import Answer, Request
    from proxy.admin.polling import Poller
    from proxy.admin.server import AdminServer
    from proxy.clock import Clock
    from proxy.config.schema import Config

T = TypeVar("T")


class AdminListener:
    """Server and endpoints together; they are loaded when there is an address to listen at.

    :param poller: what calls back; asked for when there is something to wait for.
    :param say: writes a line of the error log.
    """

    def __init__(
        self, facts: Facts, poller: Callable[[], Poller], clock: Clock, say: Callable[..., None]
    ) -> None:
        self._facts = facts
        self._poller = poller
        self._clock = clock
        self._say = say
        self._parts: tuple[AdminServer, Endpoints] | None = None

    def __repr__(self) -> str:
        return f"<AdminListener {self._parts!r}>"

    @property
    def due(self) -> float:
        """When ``tick`` has something to do."""
        return NEVER if self._parts is None else self._parts[0].due

    def use(self, config: Config, given: Collection[socket.socket] = ()) -> None:
        """Listen as this configuration says. Raises ``OSError``, also for a token file that holds none; then
        it goes on as before.

        :param given: listening sockets that exist already.
        """
        address, token = config.admin.listen, _token(config)
        if address is None and self._parts is None:
            return
        server, endpoints = self._parts = self._parts or self._load()
        known = server.addresses
        server.listen(address, given)
        endpoints.ask_for(token, unix=isinstance(address, UnixAddress))
        for at in server.addresses:
            if at not in known:
                self._say(LogLevel.INFO, "admin_listening", address=str(at))

    def reuse(self, config: Config) -> None:
        """The same after a reload: what is wrong is logged, and the listener of before stays."""
        try:
            self.use(config)
        except OSError as error:
            self._say(LogLevel.ERROR, "admin_unchanged", detail=described(error))

    def tick(self) -> None:
        """Do what is due."""
        if self._parts is not None:
            server, endpoints = self._parts
            self._surely(endpoints.tick, None)
            server.tick()

    def close(self) -> None:
        """Stop."""
        if self._parts is not None:
            self._parts[0].close()

    def _load(self) -> tuple[AdminServer, Endpoints]:
        from proxy.admin.endpoints import Endpoints  # what most processes do not need
        from proxy.admin.exchange import said
        from proxy.admin.server import AdminServer

        broken = said(500, "the error log says what broke")

        endpoints = Endpoints(self._facts, self._clock)

        def answer(request: Request) -> Answer:
            return self._surely(lambda: endpoints.answer(request), broken)

        def event() -> bytes:
            return self._surely(endpoints.event, b"")

        return AdminServer(self._poller(), self._clock, answer, event), endpoints

    def _surely(self, call: Callable[[], T], instead: T) -> T:
        """What breaks here must not end the process that serves clients: it is logged with its traceback."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - see above
            trace = "".join(traceback.format_exception(error))
            self._say(LogLevel.ERROR, "admin_error", error=repr(error), traceback=trace)
            return instead


def _token(config: Config) -> bytes:
    try:
        return read_token(config.admin.token_file)
    except ValueError as error:  # it was good when the configuration was read
        raise OSError(f"admin.token_file {error}") from error
