"""A process without sockets, for the endpoints of the admin listener."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.config.load import config_from
from proxy.config.schema import LogLevel
from proxy.observe.lifetime import Lifetime
from proxy.observe.metrics import Counters
from tests.support.clock import HandClock

if TYPE_CHECKING:
    from proxy.config.schema import Config
    from proxy.observe.metrics import Snapshot
    from proxy.observe.report import Report


def _config() -> Config:
    return config_from({"upstream": "http://web:1", "admin": {"listen": "127.0.0.1:1"}}).config


@dataclass
class PlainFacts:
    """What ``admin.endpoints.Facts`` asks for, set by the test."""

    clock: HandClock = field(default_factory=HandClock)
    config: Config = field(default_factory=_config)
    counters: Counters = field(default_factory=Counters)
    gauges: Snapshot = field(default_factory=dict)
    words: Report = field(default_factory=lambda: {"upstreams": {}, "warnings": {}})
    state: str = "ready"
    log_level: LogLevel = LogLevel.INFO
    drained: int = 0

    def __post_init__(self) -> None:
        self.lifetime = Lifetime(self.clock, "1.2.3")

    def snapshot(self) -> Snapshot:
        return self.counters.snapshot() | self.gauges

    def report(self) -> Report:
        return self.words

    def begin_drain(self) -> None:
        self.drained += 1

    def set_log_level(self, level: LogLevel) -> None:
        self.log_level = level
