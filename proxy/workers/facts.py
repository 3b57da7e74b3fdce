"""What the admin listener is told where workers serve: their parent knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.observe.report import merged
from proxy.workers.channel import Keep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.config.schema import Config, LogLevel
    from proxy.observe.lifetime import Lifetime
    from proxy.observe.metrics import Snapshot
    from proxy.observe.report import Report
    from proxy.workers.channel import Message
    from proxy.workers.child import Child
    from proxy.workers.fleet import Fleet, Worker


class FleetFacts:
    """See ``admin.endpoints.Facts``. The parent keeps ``children`` and calls ``serves`` and ``settles``."""

    def __init__(
        self,
        fleet: Fleet,
        children: Mapping[Worker, Child],
        config: Config,
        lifetime: Lifetime,
        *,
        snapshot: Callable[[], Snapshot],
        begin_drain: Callable[[], None],
    ) -> None:
        self._fleet = fleet
        self._children = children
        self.config = config
        self.lifetime = lifetime
        self.log_level = config.log.level
        self.snapshot = snapshot
        self.begin_drain = begin_drain

    @property
    def state(self) -> str:
        """Ready while at least one worker accepts."""
        if self._fleet.stopping:
            return "draining"
        current = self._fleet.current
        return "ready" if current is not None and current.serving else "starting"

    def report(self) -> Report:
        """What the workers of the configuration that is served have to say."""
        current = self._fleet.current
        workers = current.workers.values() if current is not None else ()
        children = [self._children[worker] for worker in workers if worker in self._children]
        return merged(child.report for child in children if child.report is not None)

    def set_log_level(self, level: LogLevel) -> None:
        """Tell all workers."""
        self.log_level = level
        self.tell_all(Keep(level.value))

    def tell_all(self, message: Message) -> None:
        """Tell every worker, draining ones too."""
        for child in list(self._children.values()):
            child.tell(message)

    def serves(self, config: Config) -> None:
        """This configuration is served from now on."""
        self.config = config
        self.log_level = config.log.level

    def settles(self, child: Child) -> None:
        """A worker is ready; one that was started after ``set_log_level`` does not know of it."""
        if self.log_level is not self.config.log.level:
            child.tell(Keep(self.log_level.value))
