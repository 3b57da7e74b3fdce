"""A small Debian under a real systemd, in a container on this machine: booted for a test, thrown away after.

The image is made once (``make provision``: mmdebstrap, then the proxy's dependencies for its Python); a
machine writes into memory only. It shares this machine's network, so tests talk to services in it over
loopback, and this tree's package, so they run what is being tested.

Not every kernel lets a container start another one. Whether this one does is found out by booting
(``refusal``); where it does not, the tests are left out, with the reason.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.process import children

if TYPE_CHECKING:
    from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / ".cache" / "machine"
READY = IMAGE / ".ready"
"""Written when the image is whole: what it was made of."""

FAILURE = ROOT / ".cache" / "machine.failure"
"""Why it could not be made, if it was tried."""

BUILD_TIMEOUT = 180.0
RELEASE = "bookworm"
PACKAGES = "systemd,systemd-sysv,dbus,procps,python3,curl"
SITE = "/usr/local/lib/python3.11/dist-packages"
COMMAND = """\
#!/usr/bin/python3 -P
import sys
from proxy.cli import main
sys.exit(main())
"""
ENDING_WITH_US = (
    "setpriv",
    "--pdeathsig=KILL",
    "unshare",
    "--pid",
    "--mount-proc",
    "--fork",
    "--kill-child=KILL",
)
"""systemd-nspawn does not take its container along when it is killed. So it is the first process of a
namespace of its own, which ends with it, and it ends with whoever started it."""

BOOT_TIMEOUT = 30.0
LOOK_EVERY = 0.02
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
        binds = {ROOT / "proxy": f"{SITE}/proxy", ROOT / "proxy/setup/units": "/systemd"}
        command = [
            *ENDING_WITH_US,
            *("systemd-nspawn", "--register=no", "--keep-unit", "--quiet", "--volatile=overlay"),
            *(f"--bind-ro={here}:{there}" for here, there in binds.items()),
            *(f"--bind={folder}:/test", "-D", str(IMAGE), "--boot"),
        ]
        try:
            self._unshare = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
            )
        except OSError:
            self._log.close()
            raise
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
        for _ in range(int(BOOT_TIMEOUT / LOOK_EVERY)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._unshare.wait(LOOK_EVERY)
                break  # it has ended
            for nspawn in _children(self._unshare.pid):
                for pid in _children(nspawn):
                    if _name(pid) == "systemd":  # else one of nspawn's own helpers
                        return pid
        raise MachineError(self._boot_log)

    @property
    def _boot_log(self) -> str:
        return (self._folder / "boot.log").read_text(errors="replace")

    def run(self, *command: str, check: bool = True, timeout: float = PATIENCE) -> str:
        """Run a command in it as root; its standard output. Raises ``MachineError`` if it fails."""
        enter = ["nsenter", f"--target={self.init}", "--mount", "--uts", "--ipc", "--pid", "--cgroup"]
        try:
            done = subprocess.run(
                [*enter, *command], capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as late:
            raise MachineError(f"{late}\n{self._boot_log}") from late
        if check and done.returncode != 0:
            raise MachineError(f"{' '.join(command)}\n{done.stdout}{done.stderr}\n{self._boot_log}")
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
        for nspawn in _children(self._unshare.pid):
            os.kill(nspawn, signal.SIGKILL)  # and unshare ends after it
        try:
            self._unshare.wait(PATIENCE)
        finally:
            self._unshare.kill()
        self._log.close()


def _children(pid: int) -> list[int]:
    """The processes that it has started; none if it has ended."""
    try:
        return children(pid)
    except (FileNotFoundError, ProcessLookupError):
        return []


def _name(pid: int) -> str:
    """What runs there; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@functools.cache
def refusal() -> str | None:
    """Why there can be no machine here, ``None`` if it boots (or was never made)."""
    if os.geteuid() != 0:
        return "systemd-nspawn wants to be root"
    if not is_made():
        return FAILURE.read_text() if FAILURE.exists() else None
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Machine(Path(folder)):
                return None
        except (MachineError, OSError) as error:
            said = "; ".join(str(error).split("\n")[-5:])
            return f"it does not boot: {said or 'without a word'}"


# Making the image.


def is_made() -> bool:
    """Whether the image is there, and is made of what it is made of today."""
    return READY.exists() and READY.read_text() == _recipe()


def _recipe() -> str:
    return f"{RELEASE} {PACKAGES} {' '.join(_dependencies())}"


def _dependencies() -> list[str]:
    names: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return names


def make() -> None:
    """Make the image, unless it is there. If that cannot be, the reason is kept (``FAILURE``)."""
    if is_made():
        return
    shutil.rmtree(IMAGE, ignore_errors=True)
    IMAGE.mkdir(parents=True)
    try:
        _make_debian()
        _make_python()
    except (OSError, subprocess.SubprocessError) as error:
        shutil.rmtree(IMAGE, ignore_errors=True)
        FAILURE.write_text(f"its image cannot be made: {error}")
        return
    FAILURE.unlink(missing_ok=True)
    READY.write_text(_recipe())


def _make_debian() -> None:
    """From the mirror that this machine's packages come from."""
    targets = ["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Identifier: Packages"]
    known = subprocess.run(targets, capture_output=True, text=True, check=True).stdout.splitlines()
    mirrors = [site for site, _, name in (line.partition(" ") for line in known) if name == RELEASE]
    command = [
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}"),
        '--aptopt=Acquire::Languages "none"',
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")),
        *(RELEASE, str(IMAGE), *mirrors[:1]),
    ]
    subprocess.run(command, check=True, stdout=sys.stderr, timeout=BUILD_TIMEOUT)


def _make_python() -> None:
    """Give its Python what the proxy depends on, and the places for what is tested."""
    install = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--target", f"{IMAGE}{SITE}"),
        *("--python-version", "3.11", "--only-binary=:all:", *_dependencies()),
    ]
    subprocess.run(install, check=True, stdout=sys.stderr, timeout=BUILD_TIMEOUT)
    for folder in (f"{SITE[1:]}/proxy", "systemd", "test"):
        (IMAGE / folder).mkdir()
    program = IMAGE / "usr/local/bin/posthog-proxy"
    program.write_text(COMMAND)
    program.chmod(0o755)


if __name__ == "__main__":
    make()
    if (why := refusal()) is not None:
        print(f"no machine under systemd here: {why}", file=sys.stderr)
