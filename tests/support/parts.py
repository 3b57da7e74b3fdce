"""The real programs that tests talk to: how each one is found, and how to get it.

A test names what it needs: ``@pytest.mark.needs("nginx", "curl")``; ``find("nginx")`` gives its path.
``python -m tests.support.parts`` prints what is missing, one name a line.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import machine

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
NODE_MODULES = ROOT / "tests" / "e2e" / "node_modules"
MINIMUM_NODE = 20

# Servers live in sbin, which an ordinary user's PATH leaves out; the environment's node comes first.
SEARCH_PATH = os.pathsep.join(
    [
        str(Path(sys.prefix) / "bin"),
        os.environ.get("PATH", os.defpath),
        "/usr/local/sbin",
        "/usr/sbin",
        "/sbin",
    ]
)


@dataclass(frozen=True, slots=True)
class Part:
    """``find`` gives where the part is, or ``None``; ``get`` is the command that brings it; ``refusal`` gives
    the reason why no command can bring it here, or ``None``."""

    find: Callable[[], str | None]
    get: str
    refusal: Callable[[], str | None] = lambda: None


def _program(name: str, package: str) -> Part:
    return Part(lambda: shutil.which(name, path=SEARCH_PATH), f"apt-get install {package}")


def _chromium() -> str | None:
    """Chromium with what drives it: Playwright brings its own node, which needs a library that a small
    Debian lacks."""
    library = any(Path("/usr/lib").glob("*/libatomic.so.1")) or Path("/usr/lib64/libatomic.so.1").exists()
    return shutil.which("chromium", path=SEARCH_PATH) if library else None


def _node_version(path: str) -> int:
    """The major version, 0 where it does not even start."""
    run = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return int(run.stdout.lstrip("v").partition(".")[0]) if run.returncode == 0 else 0


def _node() -> str | None:
    """The first node on the path that is new enough; Debian 12's own is too old."""
    for folder in SEARCH_PATH.split(os.pathsep):
        path = shutil.which("node", path=folder)
        if path is not None and _node_version(path) >= MINIMUM_NODE:
            return path
    return None


def _machine() -> str | None:
    return str(machine.IMAGE) if machine.is_made() else None


def _module(name: str) -> Part:
    folder = NODE_MODULES / name
    return Part(lambda: str(folder) if (folder / "package.json").is_file() else None, "make provision")


def _mounts() -> str | None:
    """`unshare`, where it may mount a file system that nobody else sees."""
    return None if _no_mounts() else shutil.which("unshare", path=SEARCH_PATH)


@functools.cache
def _no_mounts() -> str | None:
    unshare = shutil.which("unshare", path=SEARCH_PATH)
    if unshare is None:
        return "there is no unshare(1)"
    mount = [unshare, "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    tried = subprocess.run(mount, capture_output=True, text=True, check=False)
    return f"the kernel lets nobody mount here: {tried.stderr.strip()}" if tried.returncode else None


PARTS = {
    "nginx": _program("nginx", "nginx-light"),
    "haproxy": _program("haproxy", "haproxy"),
    "caddy": _program("caddy", "caddy"),
    "apache2": _program("apache2", "apache2"),
    "chromium": Part(_chromium, "apt-get install chromium libatomic1"),
    "curl": _program("curl", "curl"),
    "openssl": _program("openssl", "openssl"),
    "htpasswd": _program("htpasswd", "apache2-utils"),
    "wrk": _program("wrk", "wrk"),
    "logrotate": _program("logrotate", "logrotate"),
    "promtool": _program("promtool", "prometheus"),
    "node": Part(_node, "make provision (or install Node.js 20 or later)"),
    "mounts": Part(_mounts, "root, or a kernel with unprivileged user namespaces", _no_mounts),
    "systemd-nspawn": _program("systemd-nspawn", "systemd-container"),
    "mmdebstrap": _program("mmdebstrap", "mmdebstrap"),
    "machine": Part(_machine, "make provision, as root (a Debian of 250 MB)", machine.refusal),
    "posthog-js": _module("posthog-js"),
    "posthog-node": _module("posthog-node"),
}


@functools.cache
def path_of(name: str) -> str | None:
    """Where the part called ``name`` is, ``None`` if it is missing. Raises ``KeyError`` for no part."""
    return PARTS[name].find()


def find(name: str) -> str:
    """The same, for a test that has marked that it needs it."""
    path = path_of(name)
    assert path is not None, f"{name} is missing: {PARTS[name].get}"
    return path


@functools.cache
def refusal_of(name: str) -> str | None:
    """Why the part cannot be had on this machine, whatever is installed; ``None`` if it can."""
    return PARTS[name].refusal()


def missing() -> list[str]:
    return [name for name in PARTS if path_of(name) is None]


def everything_required() -> bool:
    """Where nothing may be left out: in CI, as root (who can install it), or when asked for."""
    return bool(os.environ.get("REQUIRE_ALL") or os.environ.get("CI")) or os.geteuid() == 0


if __name__ == "__main__":
    for part in missing():
        print(f"{part}\t{PARTS[part].get}")
