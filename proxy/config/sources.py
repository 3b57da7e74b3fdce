"""What an operator said, as it was said: kept for a reload, and handed to worker processes.

Handed over is the text, not the finished ``Config``: each process reads it with its own code, so that
workers of a newer version understand a parent of an older one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from proxy.config.load import fetch_file, load_config

if TYPE_CHECKING:
    import datetime
    from collections.abc import Mapping
    from typing import Self

    from proxy.config.load import Loaded


@dataclass(frozen=True, slots=True)
class Sources:
    """A file's path, flags by dotted key, and the file's content once it was fetched. The environment
    is not part of it: every process has its own, and that of a worker is its parent's."""

    toml_path: str | None = None
    flags: Mapping[str, str] = field(default_factory=dict)
    toml: bytes | None = None

    def fetch(self) -> Sources:
        """Return the same with the file's content of now. Raises ``ConfigError`` if it cannot be read."""
        return self if self.toml_path is None else replace(self, toml=fetch_file(self.toml_path))

    def load(self, environ: Mapping[str, str], today: datetime.date | None = None) -> Loaded:
        """Read the configuration; ``today`` as in ``load_config``. Raises ``ConfigError``."""
        return load_config(self.toml_path, environ, self.flags, toml=self.toml, today=today)

    def pack(self) -> bytes:
        """Write it as JSON. The content must be UTF-8, as TOML is: ``load`` tells."""
        toml = None if self.toml is None else self.toml.decode()
        return json.dumps({"toml_path": self.toml_path, "flags": dict(self.flags), "toml": toml}).encode()

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read what ``pack`` wrote."""
        said = json.loads(data)
        toml = said["toml"]
        return cls(said["toml_path"], said["flags"], None if toml is None else toml.encode())
