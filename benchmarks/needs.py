"""The programs that a run needs: which are missing, and how to get each. Nothing is installed here."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

HOW = {
    "nginx": "apt-get install nginx-light (Debian 12: 1.22)",
    "haproxy": "apt-get install haproxy (Debian 12: 2.6)",
    "caddy": "apt-get install caddy (Debian 12: 2.6)",
    "wrk": "apt-get install wrk",
    "openssl": "apt-get install openssl",
    "taskset": "apt-get install util-linux",
    "setpriv": "apt-get install util-linux",
    "perf": "apt-get install linux-perf",
    "py-spy": "pip install py-spy",
    "matplotlib": "pip install matplotlib",
}
"""Name of a program or package and the command that brings it."""

ALWAYS = ("wrk", "nginx", "openssl", "taskset", "setpriv")
"""Needed by every run: nginx is the origin too."""


EVERYWHERE = "/usr/local/sbin:/usr/sbin"
"""Where servers live, which an ordinary user's PATH leaves out."""


def extend_path() -> None:
    """Make sure that servers are found, by this process and its children."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join([*path, *(one for one in EVERYWHERE.split(":") if one not in path)])


def missing(programs: Iterable[str]) -> list[str]:
    """Return those that are not on the path, each once."""
    return [name for name in dict.fromkeys(programs) if shutil.which(name) is None]


def advice(names: Iterable[str]) -> str:
    """One line for each: what is missing and how to get it."""
    return "\n".join(f"  {name}: {HOW.get(name, 'not found')}" for name in names)
