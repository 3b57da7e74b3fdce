"""What is known of the process rather than of requests: version, start, workers, reloads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.observe.metrics import PREFIX

if TYPE_CHECKING:
    from proxy.clock import Clock
    from proxy.observe.metrics import Snapshot


def installed_version() -> str:
    """Return the version of this distribution, ``source`` where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # only at the start

    try:
        return version("posthog-proxy")
    except PackageNotFoundError:
        return "source"


class Lifetime:
    """One process's life. ``workers``: how many serve (1: the process itself). Times are of the wall clock,
    in seconds."""

    def __init__(self, clock: Clock, version: str, workers: int = 1) -> None:
        self._clock = clock
        self.version = version
        self.workers = workers
        self.started = clock.wall()
        self._loaded = self.started
        self._good = True
        self._reloads = {"success": 0, "failure": 0}

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return max(0.0, self._clock.wall() - self.started)

    @property
    def last_reload(self) -> bool:
        """Whether the last reload was used; true before the first."""
        return self._good

    def reloaded(self, *, good: bool) -> None:
        """The configuration was read again, and is used or not."""
        self._good = good
        self._reloads["success" if good else "failure"] += 1
        if good:
            self._loaded = self._clock.wall()

    def snapshot(self) -> Snapshot:
        """Return it under the exported names."""
        values: Snapshot = {
            "build_info": {f'version="{self.version}"': 1},
            "start_time_seconds": int(self.started),
            "workers": self.workers,
            "config_reloads_total": {f'result="{word}"': count for word, count in self._reloads.items()},
            "config_last_reload_success": int(self._good),
            "config_last_reload_timestamp_seconds": int(self._loaded),
        }
        return {f"{PREFIX}{name}": value for name, value in values.items()}
