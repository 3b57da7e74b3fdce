"""The parent process: sockets, signals, reload, counters; and doing what the fleet decides (fleet.py).

One loop waits for signals, for messages of workers and for the next moment at which something is due; there
is no event loop's library in it, so that the parent stays small. It serves nothing itself.

The logs: every worker writes its own lines to the same places, in turns (observe/turns.py), with its number
in the field ``worker`` of the error log. The parent's lines have that field only where they are about one.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from proxy.admin.listener import AdminListener
from proxy.admin.polling import SelectorPoller
from proxy.clock import NEVER, Clock
from proxy.config.schema import LogLevel, configured_listeners
from proxy.errors import ConfigError, described
from proxy.net.listeners import Listeners
from proxy.notify import Notifier
from proxy.observe.lifetime import Lifetime, installed_version
from proxy.observe.log import error_line, is_kept
from proxy.observe.metrics import add_snapshot, flattened
from proxy.observe.turns import Turns, lock_file
from proxy.observe.writer import log_writer, reopen_logs
from proxy.workers import MAX_DRAINING, worker_count
from proxy.workers.channel import Alive, Close, Counted, Drain, Failed, Ready, Reopen, Reported, Retired
from proxy.workers.child import Child
from proxy.workers.facts import FleetFacts
from proxy.workers.fleet import (
    End,
    Fleet,
    GiveUp,
    Kill,
    Note,
    Promote,
    Replaced,
    Share,
    Start,
    TellClose,
    TellDrain,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from typing import Self

    from proxy.config.load import Loaded
    from proxy.config.schema import Config
    from proxy.config.sources import Sources
    from proxy.observe.metrics import Snapshot
    from proxy.observe.writer import LogWriter
    from proxy.workers.channel import Message
    from proxy.workers.fleet import Command, Generation, Worker

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)

LOG_PATIENCE = 1.0
"""Seconds to wait for the last lines of a log that is closed."""


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """What belongs to one configuration. ``settings`` is the descriptor that its workers read it from."""

    config: Config
    warnings: tuple[str, ...]
    listeners: Listeners
    settings: int
    errors: LogWriter

    @classmethod
    def open(
        cls,
        sources: Sources,
        loaded: Loaded,
        turns: Turns,
        before: Listeners | None,
        given: Collection[socket.socket] = (),
    ) -> Self:
        """Bind what ``before`` has not. Raises ``OSError``; then everything is as it was."""
        config = loaded.config
        with ExitStack() as undo:
            listeners = Listeners.bind(
                (listener.address for listener in configured_listeners(config)),
                backlog=config.limits.backlog,
                shares=worker_count(config),
                reuse_port=True,
                kept=before,
                given=given,
            )
            undo.callback(listeners.close, but=before)
            settings = os.memfd_create("posthog-proxy-settings")
            undo.callback(os.close, settings)
            with open(settings, "wb", closefd=False) as file:
                file.write(sources.pack())
            errors = log_writer(config.log.errors, turns)
            undo.pop_all()
        return cls(config, loaded.warnings, listeners, settings, errors)

    def close(self, *, but: Listeners | None = None) -> None:
        """Release everything, save the sockets that are among those of ``but`` too."""
        self.listeners.close(but=but)
        os.close(self.settings)
        self.errors.close(LOG_PATIENCE)


class Supervisor:
    """See the module. Memory: the counters of each worker, and their sum (``metrics.add_snapshot``).

    :param sources: what the operator said, with the file's content; read again on SIGHUP.
    :param loaded: the same, read.
    :param environ: the environment that belongs to it.
    :param notifier: hears when it serves, reloads and stops, and that its loop turns. A worker whose event
        loop does not is killed by the fleet, so the service manager need not know of it.
    :param given: listening sockets that exist already.
    """

    def __init__(
        self,
        sources: Sources,
        loaded: Loaded,
        environ: Mapping[str, str],
        *,
        notifier: Notifier | None = None,
        given: Collection[socket.socket] = (),
        clock: Clock | None = None,
    ) -> None:
        self._sources = sources
        self._environ = environ
        self._clock = clock or Clock()
        self._notifier = notifier or Notifier()
        self._feed_at = NEVER
        self._given = given
        self._fleet = Fleet()
        self._children: dict[Worker, Child] = {}
        self._stages: dict[Generation, _Stage] = {}
        self._selector = selectors.DefaultSelector()
        self._lock = lock_file()
        self._turns = Turns(self._lock)
        self._ended: Snapshot = {}
        self._stop_accepting_at = NEVER
        self._wanted = False
        """A reload was asked for and not begun yet."""
        self._stopped_by: list[signal.Signals] = []
        self._failure = ""
        self._over = False
        self._loaded = loaded
        self._lifetime = Lifetime(self._clock, installed_version(), worker_count(loaded.config))
        self._facts = FleetFacts(
            self._fleet,
            self._children,
            loaded.config,
            self._lifetime,
            snapshot=self.snapshot,
            begin_drain=partial(self._stop, signal.SIGTERM),
        )
        self._admin = AdminListener(
            self._facts, lambda: SelectorPoller(self._selector), self._clock, self._say
        )
        self._stage: _Stage
        """What is served; at first, what is to be served."""

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, drain, and return the exit status, as ``service.serve`` does.

        :raises OSError: an address cannot be bound, a log file not opened, or a worker could not start.
        """
        with self._hearing_signals(), ExitStack() as release:
            release.callback(os.close, self._lock)
            self._stage = _Stage.open(self._sources, self._loaded, self._turns, None, self._given)
            if self._notifier.interval:
                self._feed_at = self._now()
            release.callback(self._release)
            self._admin.use(self._stage.config, self._given)
            self._begin(self._stage)
            while not self._over:
                self._turn()
            return self._end()

    def snapshot(self) -> Snapshot:
        """Return the counters of all workers in one sum, of those too that have ended (less what one that
        was killed had counted in its last second)."""
        total: Snapshot = {}
        add_snapshot(total, self._ended)
        for child in self._children.values():
            add_snapshot(total, child.counted)
        return total

    # The loop.

    def _turn(self) -> None:
        due = min(self._fleet.due, self._stop_accepting_at, self._feed_at, self._admin.due)
        timeout = None if due == NEVER else max(0.0, due - self._now())
        for key, _ in self._selector.select(timeout):
            key.data()
        self._do(self._fleet.tick(self._now()))
        if self._feed_at <= self._now():
            self._notifier.alive()
            self._feed_at = self._now() + self._notifier.interval
        if self._admin.due <= self._now():
            self._admin.tick()
        if self._stop_accepting_at <= self._now():
            self._stop_accepting()
        if self._wanted and self._fleet.may_begin:
            self._reload()

    def _do(self, commands: Iterable[Command]) -> None:
        pending = deque(commands)
        while pending:
            match pending.popleft():
                case Start(worker):
                    pending += self._start(worker)
                case Promote(generation, before):
                    self._promote(generation, before)
                case Replaced():
                    self._notifier.ready(self._status())
                    self._lifetime.reloaded(good=True)
                    self._say(LogLevel.INFO, "reloaded", workers=worker_count(self._stage.config))
                case Share(generation):
                    self._share(generation)
                case TellDrain(worker, handover):
                    self._tell(worker, Drain(handover))
                case TellClose(worker):
                    self._tell(worker, Close())
                case Kill(worker):
                    self._children[worker].kill()
                case Note(level, event, fields):
                    self._say(level, event, **fields)
                case GiveUp(generation):
                    self._give_up(generation)
                case End():
                    self._over = True

    # Workers.

    def _start(self, worker: Worker) -> Iterable[Command]:
        stage = self._stages[worker.generation]
        try:
            child = Child.start(worker.number, settings=stage.settings, turns=self._lock)
        except OSError as error:
            self._failure = described(error)
            return self._fleet.ended(worker, {"detail": self._failure}, self._now(), clean=False)
        self._children[worker] = child
        self._selector.register(child.channel, selectors.EVENT_READ, partial(self._hear, worker))
        return ()

    def _tell(self, worker: Worker, message: Message) -> None:
        child = self._children.get(worker)
        if child is not None:  # else it could not be started
            child.tell(message)

    def _hear(self, worker: Worker) -> None:
        child = self._children.get(worker)
        if child is None:  # it was reaped in this turn
            return
        try:
            for message in child.channel.receive():
                self._take(worker, child, message)
        except ValueError as error:
            self._say(LogLevel.ERROR, "worker_garbled", worker=worker.number, detail=str(error))
            child.kill()
        if child.channel.ended:
            with contextlib.suppress(KeyError):
                self._selector.unregister(child.channel)

    def _take(self, worker: Worker, child: Child, message: Message) -> None:
        match message:
            case Ready():
                self._facts.settles(child)
                self._do(self._fleet.ready(worker, self._now()))
            case Alive():
                self._fleet.alive(worker, self._now())
            case Retired():
                self._do(self._fleet.retired(worker))
            case Counted(snapshot):
                child.counted = snapshot
            case Reported(report):
                child.report = report
            case Failed(detail):
                child.failure = detail

    def _reap(self) -> None:
        for worker, child in list(self._children.items()):
            how = child.ending()
            if how is None:
                continue
            self._hear(worker)
            self._let_go(worker, child)
            if child.failure:
                how["detail"] = child.failure
            if worker.generation is self._fleet.upcoming:
                ended = ", ".join(f"{name} {value}" for name, value in how.items())
                self._failure = child.failure or f"worker {worker.number} ended before it was ready: {ended}"
            clean = how.get("exit_code") == 0
            self._do(self._fleet.ended(worker, how, self._now(), clean=clean))

    def _let_go(self, worker: Worker, child: Child) -> None:
        add_snapshot(self._ended, child.counted, ended=True)
        with contextlib.suppress(KeyError):
            self._selector.unregister(child.channel)
        child.channel.close()
        del self._children[worker]

    def _share(self, generation: Generation) -> None:
        stage = self._stages[generation]
        live = {worker.number - 1 for worker in generation.serving}
        for worker in generation.serving:
            self._children[worker].share(stage.listeners.for_worker(worker.number - 1, live))

    # Generations.

    def _begin(self, stage: _Stage) -> None:
        timeouts = stage.config.timeouts
        begun = self._fleet.begin(
            worker_count(stage.config), timeouts.drain_delay + timeouts.drain, self._now()
        )
        commands = deque(begun)
        assert self._fleet.upcoming is not None
        self._stages[self._fleet.upcoming] = stage
        self._do(commands)

    def _promote(self, generation: Generation, before: Generation | None) -> None:
        stage = self._stages[generation]
        stage.listeners.listen(stage.config.limits.backlog)
        known = () if before is None else self._stage.listeners.addresses
        self._stage = stage
        self._facts.serves(stage.config)
        self._lifetime.workers = worker_count(stage.config)
        if before is not None:
            self._admin.reuse(stage.config)
            self._stages.pop(before).close(but=stage.listeners)
        for warning in stage.warnings:
            self._say(LogLevel.WARNING, "configuration", detail=warning)
        for address in stage.listeners.addresses:
            if address not in known:
                self._say(LogLevel.INFO, "listening", address=str(address))
        if before is None:
            self._notifier.ready(self._status())

    def _give_up(self, generation: Generation) -> None:
        stage = self._stages.pop(generation)
        if stage is not self._stage:
            self._say(LogLevel.ERROR, "reload_failed", detail=self._failure)
            self._lifetime.reloaded(good=False)
            self._failure = ""
            stage.close(but=self._stage.listeners)
            self._notifier.ready(self._status())

    # Reloading.

    def _reload(self) -> None:
        self._wanted = False
        self._notifier.reloading(self._clock)
        stage = self._renewed()
        if stage is not None:
            self._begin(stage)
        else:
            self._lifetime.reloaded(good=False)
            self._notifier.ready(self._status())

    def _renewed(self) -> _Stage | None:
        read = self._read()
        if read is None:
            return None
        try:
            return _Stage.open(*read, self._turns, self._stage.listeners, self._given)
        except OSError as error:
            self._say(LogLevel.ERROR, "reload_failed", detail=described(error))
            return None

    def _read(self) -> tuple[Sources, Loaded] | None:
        """Read the configuration anew; log all that is wrong with it."""
        try:
            sources = self._sources.fetch()
            return sources, sources.load(self._environ)
        except ConfigError as error:
            for problem in error.problems:
                self._say(LogLevel.ERROR, "reload_failed", detail=str(problem))
            return None

    # Signals.

    @contextmanager
    def _hearing_signals(self) -> Iterator[None]:
        """Signals are bytes on a socket meanwhile, which the loop reads."""
        reader, writer = socket.socketpair()
        with reader, writer:
            reader.setblocking(False)
            writer.setblocking(False)
            before = {number: signal.signal(number, _noted) for number in HEARD}
            old = signal.set_wakeup_fd(writer.fileno())
            self._selector.register(reader, selectors.EVENT_READ, partial(self._hear_signals, reader))
            try:
                yield
            finally:
                signal.set_wakeup_fd(old)
                for number, handler in before.items():
                    signal.signal(number, handler)
                self._selector.close()

    def _hear_signals(self, reader: socket.socket) -> None:
        heard = reader.recv(4096)
        if signal.SIGCHLD in heard:
            self._reap()
        for number in heard:
            if number == signal.SIGHUP:
                self._ask_for_reload()
            elif number == signal.SIGUSR1:
                reopen_logs(self._stage.errors.reopen, self._say)
                self._facts.tell_all(Reopen())
            elif number != signal.SIGCHLD:
                self._stop(signal.Signals(number))

    def _ask_for_reload(self) -> None:
        self._wanted = True
        if len(self._fleet.leaving) >= MAX_DRAINING and self._read() is not None:
            # It has to wait, but what is wrong is said at once.
            self._say(LogLevel.INFO, "reload_waits", draining=len(self._fleet.leaving))

    def _stop(self, by: signal.Signals) -> None:
        self._stopped_by.append(by)
        if len(self._stopped_by) == 1:
            self._say(LogLevel.INFO, "draining", signal=by.name)
            self._notifier.stopping("draining")
            self._stop_accepting_at = self._now() + self._stage.config.timeouts.drain_delay
            self._do(self._fleet.stop(self._now()))
        else:
            self._stop_accepting_at = self._now()
            self._do(self._fleet.abort(self._now()))

    # Ending.

    def _stop_accepting(self) -> None:
        """Close the sockets; the workers close theirs when they drain."""
        self._stop_accepting_at = NEVER
        for stage in {self._stage, *self._stages.values()}:
            stage.listeners.close()

    def _end(self) -> int:
        if not self._stopped_by:
            raise OSError(self._failure)
        if len(self._stopped_by) > 1:
            second = self._stopped_by[1]
            self._say(LogLevel.WARNING, "stopped_at_once", signal=second.name)
            return 128 + second
        self._say(LogLevel.INFO, "counters", **flattened(self.snapshot()))
        self._say(LogLevel.INFO, "stopped")
        return 0

    def _release(self) -> None:
        self._admin.close()
        for worker, child in list(self._children.items()):  # only after an error of ours
            child.kill()
            child.wait()
            self._let_go(worker, child)
        for stage in {self._stage, *self._stages.values()}:
            stage.close()

    # Saying.

    def _status(self) -> str:
        addresses = ", ".join(map(str, self._stage.listeners.addresses))
        return f"{worker_count(self._stage.config)} workers serving on {addresses}"

    def _say(self, level: LogLevel, event: str, **fields: object) -> None:
        log = self._stage.config.log
        if is_kept(level, self._facts.log_level):
            self._stage.errors(error_line(level, event, self._clock.wall(), log.format, **fields))

    def _now(self) -> float:
        return self._clock.monotonic()


def _noted(number: int, frame: object) -> None:
    """The handler of every signal: the wakeup socket has its number already."""
