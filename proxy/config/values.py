"""The types of configured values that are more than text and numbers: addresses, URLs, choices."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple, TypeAlias

IPNetwork: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """``HOST:PORT``; an IPv6 host is written in brackets. Port 0: the system chooses."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """``unix:/absolute/path``."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


ListenAddress: TypeAlias = TcpAddress | UnixAddress


@dataclass(frozen=True, slots=True)
class UpstreamUrl:
    """``http://host[:port]``, ``https://host[:port]`` or ``unix:/path``; never with a path or query.

    ``address`` is where to connect; ``tls`` whether to speak TLS there.
    """

    address: TcpAddress | UnixAddress
    tls: bool = False

    @property
    def authority(self) -> str:
        """The Host value that names this upstream: without the port where it is the scheme's own."""
        if isinstance(self.address, UnixAddress):
            return "localhost"
        default = 443 if self.tls else 80
        if self.address.port == default:
            return f"[{self.address.host}]" if ":" in self.address.host else self.address.host
        return str(self.address)

    def __str__(self) -> str:
        if isinstance(self.address, UnixAddress):
            return str(self.address)
        return f"{'https' if self.tls else 'http'}://{self.authority}"


class Auto(enum.Enum):
    """Stands in place of a number that the machine knows better."""

    AUTO = "auto"


class Deployment(enum.Enum):
    """Where PostHog runs: what `preset` can say (deployments.py)."""

    CLOUD_US = "posthog-cloud-us"
    CLOUD_EU = "posthog-cloud-eu"
    SELF_HOSTED = "self-hosted"
    HOBBY = "hobby"


class Alias(NamedTuple):
    """A public ``path``, and PostHog's path ``target`` that it stands for."""

    path: str
    target: str

    def __str__(self) -> str:
        return f"{self.path}={self.target}"


class ListenerMode(enum.Enum):
    """What a listener takes in: HTTP requests, or bytes that nobody looks at."""

    HTTP = "http"
    TCP = "tcp"


class TlsVersion(enum.Enum):
    """Versions of TLS that are spoken with clients."""

    TLS_1_2 = "1.2"
    TLS_1_3 = "1.3"


class ClientAuth(enum.Enum):
    """Whether a client is asked for a certificate, and whether it must have one."""

    OFF = "off"
    OPTIONAL = "optional"
    REQUIRED = "required"


class HostPolicy(enum.Enum):
    """Which Host an upstream is sent: the client's, exactly as received, or the upstream's own name
    (PostHog Cloud answers 401 or 502 to any other)."""

    KEEP = "keep"
    UPSTREAM = "upstream"


class Satisfy(enum.Enum):
    """Whether a protected path wants everything that `[access]` demands, or any one of it (nginx's word)."""

    ALL = "all"
    ANY = "any"


class ChainMode(enum.Enum):
    """What X-Forwarded-For says upstream: one computed address, or nginx's appended chain."""

    COLLAPSE = "collapse"
    APPEND = "append"


class LogFormat(enum.Enum):
    """One JSON object a line, or one line for human eyes."""

    JSON = "json"
    TEXT = "text"


class LogLevel(enum.Enum):
    """What the error log keeps."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
