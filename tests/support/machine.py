"""A small Debian under a real systemd, in a container on this machine: booted for a test, thrown away after.

The image is made once (``make provision``: debootstrap, then the proxy's dependencies for its Python); a
machine writes into memory only. It shares this machine's network, so tests talk to services in it over
loopback, and this tree's package, so they run what is being tested.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / ".cache" / "machine"
READY = IMAGE / ".ready"
"""Written when the image is whole."""

PACKAGES = "systemd,systemd-sysv,dbus,procps,python3,curl"
SITE = "/usr/local/lib/python3.11/dist-packages"
COMMAND = """\
#!/usr/bin/python3 -P
import sys
from proxy.cli import main
sys.exit(main())
"""
BOOT_TIMEOUT = 60.0
_UNTIL_UP = (
    "until systemctl is-system-running --wait 2>/dev/null | grep -qE 'running|degraded'; do sleep 0.1; done"
)
PATIENCE = 60.0
"""Seconds for what systemd does."""


class MachineError(Exception):
    """It did not boot, or a command in it failed; the message holds the output."""


class Machine:
    """A booted machine; use it as a context manager. ``folder`` is /test in it, and can be written there."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self._log = (folder / "boot.log").open("wb")
        binds = {ROOT / "proxy": f"{SITE}/proxy", ROOT / "systemd": "/systemd"}
        self._nspawn = subprocess.Popen(
            [
                "systemd-nspawn",
                "--register=no",
                "--keep-unit",
                "--quiet",
                "--volatile=overlay",
                *(f"--bind-ro={here}:{there}" for here, there in binds.items()),
                f"--bind={folder}:/test",
                "-D",
                str(IMAGE),
                "--boot",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._folder = folder

    def __enter__(self) -> Self:
        try:
            self.run("timeout", f"{BOOT_TIMEOUT}", "sh", "-c", _UNTIL_UP)
        except MachineError:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with contextlib.suppress(MachineError):
                error.add_note(self.run("journalctl", "--no-pager", "-n", "100", "-u", "posthog-proxy*"))
        self.stop()

    @functools.cached_property
    def init(self) -> int:
        """The pid of its systemd, as seen from here. Raises ``MachineError`` if there will be none."""
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        wait = subprocess.run(
            [
                "sh",
                "-c",
                f"until grep -q . {children} 2>/dev/null || [ ! -e {children} ]; do sleep 0.05; done",
            ],
            timeout=BOOT_TIMEOUT,
            check=False,
        )
        pids = children.read_text().split() if wait.returncode == 0 and children.exists() else []
        if not pids:
            raise MachineError((self._folder / "boot.log").read_text(errors="replace"))
        return int(pids[0])

    def run(self, *command: str, check: bool = True, timeout: float = PATIENCE) -> str:
        """Run a command in it as root; its standard output. Raises ``MachineError`` if it fails."""
        done = subprocess.run(
            ["nsenter", f"--target={self.init}", "--mount", "--uts", "--ipc", "--pid", "--cgroup", *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            log = (self._folder / "boot.log").read_text(errors="replace")
            raise MachineError(f"{' '.join(command)}\n{done.stdout}{done.stderr}\n{log}")
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def journal(self, unit: str) -> list[dict[str, Any]]:
        """What the service itself wrote, each line as the object that it is."""
        lines = self.run("journalctl", "--no-pager", "-o", "json", "-u", unit).splitlines()
        said = [entry["MESSAGE"] for entry in map(json.loads, lines) if entry.get("_COMM") != "systemd"]
        return [json.loads(line) for line in said if line.startswith("{")]

    def stop(self) -> None:
        """Switch it off."""
        self._nspawn.kill()  # its kernel namespace ends with it, and all processes in there
        self._nspawn.wait()
        self._log.close()


# Making the image.


def make() -> None:
    """Make the image, unless it is there. Raises ``subprocess.CalledProcessError``."""
    if READY.exists():
        return
    shutil.rmtree(IMAGE, ignore_errors=True)
    IMAGE.mkdir(parents=True)
    sites = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)"], capture_output=True, text=True, check=True
    )
    mirror = next(site for site in sites.stdout.split() if "security" not in site)
    bootstrap = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(IMAGE), mirror]
    subprocess.run(bootstrap, check=True, stdout=sys.stderr)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--target", f"{IMAGE}{SITE}"),
            *("--python-version", "3.11", "--only-binary=:all:", *project["dependencies"]),
        ],
        check=True,
        stdout=sys.stderr,
    )
    (IMAGE / f"{SITE[1:]}/proxy").mkdir()
    for folder in ("systemd", "test"):
        (IMAGE / folder).mkdir()
    program = IMAGE / "usr/local/bin/posthog-proxy"
    program.write_text(COMMAND)
    program.chmod(0o755)
    READY.touch()


if __name__ == "__main__":
    make()
