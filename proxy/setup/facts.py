"""What `init` finds out by itself: how the proxy is started, whether PostHog is here, what is in the way."""

from __future__ import annotations

import datetime
import http.client
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.clock import Clock
from proxy.config.aliases import suggested_prefix
from proxy.config.notation import alias_prefix, listen_address
from proxy.config.schema import TcpAddress
from proxy.setup.plan import CONFIG, SERVICE, SOCKET

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

POSTHOG = (("127.0.0.1", 8000),)
"""Where PostHog listens on its own host: its container's port, published as it is."""

PATIENCE = 2.0
"""Seconds for a process on this host to answer."""


def program() -> tuple[str, ...]:
    """Return how the running program is started: its own path, or its interpreter with ``-m proxy``."""
    path = shutil.which(sys.argv[0])
    if path is not None and Path(path).name == "posthog-proxy":
        return (os.path.abspath(path),)
    return (sys.executable, "-P", "-m", "proxy")


def today() -> datetime.date:
    """Return the date in UTC."""
    return datetime.datetime.fromtimestamp(Clock().wall(), datetime.UTC).date()


def needed_paths(words: Sequence[str]) -> list[str]:
    """Return where the program, its interpreter and its libraries really are."""
    paths = (words[0], sys.prefix, sys.base_prefix, __file__)
    return list(dict.fromkeys(os.path.realpath(path) for path in paths))


def find_posthog(places: Iterable[tuple[str, int]] = POSTHOG) -> str | None:
    """Return the URL of a PostHog on this host, if one answers on `/_health`."""
    for host, port in places:
        connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
        try:
            connection.request("GET", "/_health")
            answer = connection.getresponse()
            if answer.status == 200 and answer.read(64).strip() == b"ok":
                return f"http://{host}:{port}"
        except (OSError, http.client.HTTPException):
            continue  # nobody, or somebody else
        finally:
            connection.close()
    return None


def alias_of(root: Path, hosts: Sequence[str]) -> str:
    """Return the name that the configuration below ``root`` has already, else a new one."""
    return _alias_in(below(root, CONFIG)) or suggested_prefix(f"{' '.join(hosts)} {secrets.token_hex(16)}")


def _alias_in(path: Path) -> str | None:
    try:
        found = tomllib.loads(path.read_text("utf-8"))["aliases"]["prefix"]
        return alias_prefix(found)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # there is none, or none that could be kept


def taken(addresses: Iterable[str]) -> list[str]:
    """Return those of the addresses on which somebody listens now."""
    return [text for text in addresses if _is_taken(text)]


def _is_taken(text: str) -> bool:
    address = listen_address(text)
    if not isinstance(address, TcpAddress):
        return False
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except PermissionError:
            return False
        except OSError:
            return True
    return False


def in_use(root: Path) -> list[str]:
    """Return which units below ``root`` are enabled, or are active on this host."""
    links = below(root, "/etc/systemd/system").glob("*.wants/posthog-proxy.*")
    names = {link.name for link in links}
    systemctl = shutil.which("systemctl")
    if root == Path("/") and systemctl is not None:
        for unit in (Path(SOCKET).name, Path(SERVICE).name):
            command = [systemctl, "--quiet", "is-active", unit]
            if subprocess.run(command, check=False, capture_output=True).returncode == 0:
                names.add(unit)
    return sorted(names)


def below(root: Path, path: str) -> Path:
    """An absolute path, seen from another root."""
    return root / path.lstrip("/")
