"""Passwords of `access.basic_auth_file`: checked in threads, because one bcrypt takes a quarter of a second.

An unknown user costs what a known one does: a hash that nothing matches is checked all the same. What was
found right is remembered for a while under a keyed digest of user, password and hash, so that neither a
dump of the memory nor a log tells a password, and a changed hash counts at once.

Memory: the file, ``REMEMBERED`` digests, and `access.basic_auth_checks` checks that run or wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import bcrypt

from proxy.config.htpasswd import HtpasswdError, cost_of, read_htpasswd
from proxy.config.schema import LogLevel
from proxy.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.clock import Clock
    from proxy.config.schema import AccessConfig

REMEMBERED = 1024
"""Digests of right passwords that are kept."""

THREADS = 2
"""Checks that run at once; bcrypt lets the event loop run meanwhile, on another core where there is one."""

LOOK_INTERVAL = 1.0
"""Seconds between two looks at whether the file has changed."""

PASSWORD_BYTES = 72
"""What bcrypt takes of a password; htpasswd cuts there too."""


class Passwords:
    """The users of one file. ``say(level, event, **fields)`` is told when the file changes.

    :raises ConfigError: the file cannot be used.
    """

    def __init__(self, config: AccessConfig, clock: Clock, say: Callable[..., None]) -> None:
        self._path = config.basic_auth_file
        self._most = config.basic_auth_checks
        self._ttl = config.basic_auth_cache
        self._clock = clock
        self._say = say
        self._secret = secrets.token_bytes(32)
        self._right: dict[bytes, float] = {}
        self._running: dict[bytes, asyncio.Future[bool]] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
        self._seen = self._signature()
        self._looked = clock.monotonic()
        try:
            self._users = read_htpasswd(self._path)
        except HtpasswdError as error:
            raise ConfigError(Problem("access.basic_auth_file", f'"{self._path}"', str(error))) from None
        self._nobody = _nobody(self._users)

    def __repr__(self) -> str:
        return f"<Passwords users={len(self._users)} running={len(self._running)} right={len(self._right)}>"

    async def check(self, user: bytes, password: bytes) -> bool | None:
        """Is this the user's password? ``None``: too many are being checked already."""
        now = self._clock.monotonic()
        if now - self._looked >= LOOK_INTERVAL:
            self._looked = now
            self._look()
        digest = self._users.get(user, self._nobody)
        key = self._key(user, password, digest)
        if self._right.get(key, 0.0) > now:
            return True
        running = self._running.get(key)
        if running is None:
            if len(self._running) >= self._most:
                return None
            running = self._begin(key, password, digest)
        # Whoever leaves must not end the check for the others that wait for the same one.
        return await asyncio.shield(running) and user in self._users

    async def close(self) -> None:
        """Wait for the checks that run; those that wait in line are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._running:
            await asyncio.wait(list(self._running.values()))

    def _begin(self, key: bytes, password: bytes, digest: bytes) -> asyncio.Future[bool]:
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._threads, bcrypt.checkpw, password[:PASSWORD_BYTES], digest)
        self._running[key] = running
        running.add_done_callback(lambda done: self._ended(key, done))
        return running

    def _ended(self, key: bytes, done: asyncio.Future[bool]) -> None:
        del self._running[key]
        if not done.cancelled() and done.exception() is None and done.result():
            self._right.pop(key, None)
            if len(self._right) >= REMEMBERED:
                del self._right[next(iter(self._right))]
            self._right[key] = self._clock.monotonic() + self._ttl

    def _key(self, user: bytes, password: bytes, digest: bytes) -> bytes:
        mark = hashlib.blake2b(key=self._secret, digest_size=32)
        for part in (user, password, digest):
            mark.update(len(part).to_bytes(4, "big") + part)
        return mark.digest()

    # The file.

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _look(self) -> None:
        """Read the file again if it changed; a bad one is said, and the users stay as they were."""
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature
        try:
            users: Mapping[bytes, bytes] = read_htpasswd(self._path)
        except HtpasswdError as error:
            self._say(LogLevel.ERROR, "passwords_not_reloaded", file=self._path, detail=str(error))
            return
        self._users, self._nobody = users, _nobody(users)
        self._say(LogLevel.INFO, "passwords_reloaded", file=self._path, users=len(users))


def _nobody(users: Mapping[bytes, bytes]) -> bytes:
    """A hash that takes as long to check as the slowest of ``users``, and that no password is known for."""
    return bcrypt.gensalt(max(map(cost_of, users.values()))) + b"." * 31
