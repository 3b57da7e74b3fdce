"""The store of one worker: SQLite files on a local disk, seen from the thread of the event loop.

::

    append, begin, delivered … ──▶ Writer (thread: group commit, fsync) ──▶ done, futures, Recent
    oldest ──────────────────────▶ Recent (memory), if all that waits is there
    oldest, body ────────────────▶ Reader (thread: own connections) ─────▶ records, pieces
    figures ◀──────────────────── what the writer said last

The loop never waits for a disk: it puts jobs into a queue and hears of them later, and what it may put
there is bounded in bytes. A disk that is slow beyond `spool.commit_timeout` is taken as failed: whoever
waits is told so (``due`` and ``expire``, for the loop's sweep of deadlines), although the record may yet be
kept: it may then be delivered twice, which a uuid makes harmless.

Files: a worker's own for new records, and those of workers that are gone, adopted to be emptied. A file
that is damaged is renamed, one of a later version is let alone; both are reported.

Memory: `spool.memory` bytes of bodies and heads that wait for the disk, ``INLINE_BYTES`` that a reading
brings along, and what ``Recent`` holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

from proxy.clock import NEVER
from proxy.spool import files, schema
from proxy.spool.entry import PiecewiseEntry
from proxy.spool.jobs import Append, Change, Remove
from proxy.spool.reader import Reader
from proxy.spool.recent import Recent
from proxy.spool.record import Figures, SpoolFailed, SpoolFull, Tended
from proxy.spool.table import room
from proxy.spool.writer import State, Upkeep, Writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from proxy.clock import Clock
    from proxy.config.schema import SpoolConfig
    from proxy.spool.files import Claim
    from proxy.spool.jobs import Error, Job
    from proxy.spool.record import Done, RecordId, SpoolRecord, Stored
    from proxy.spool.writer import Batch, Fault

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Store:
    """See the module, and ``record.Keeper``."""

    @classmethod
    async def open(
        cls,
        directory: Path | str,
        settings: SpoolConfig,
        clock: Clock,
        worker: str,
        *,
        share: int = 1,
        fault: Fault | None = None,
    ) -> Store:
        """Open the files of a worker that is called ``worker`` (letters, digits, ``_``), or make one.

        ``share``: how many workers share the sizes of ``settings``. Raises ``SpoolFailed`` where the
        directory cannot be used. ``notices`` then says what was found on the way.
        """
        store = cls(Path(directory), settings, clock, share, fault)
        try:
            await store._open(worker)
        except BaseException:
            await store.close()
            raise
        return store

    def __init__(
        self, directory: Path, settings: SpoolConfig, clock: Clock, share: int, fault: Fault | None
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._clock = clock
        self._most_bytes = settings.max_bytes // share
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(
            directory,
            settings,
            clock,
            self._hand_over,
            most_dead_letters=settings.max_dead_letters // share,
            fault=fault,
        )
        self._reader = Reader(directory)
        self._reading = ThreadPoolExecutor(1, "spool-reader")
        self._recent = Recent()
        self._state = State()
        self._stored = 0  # bytes of records, as of the last batch
        self._reserved = 0  # bytes of records that are on their way
        self._waiting: deque[Job] = deque()
        self._waiting_bytes = 0
        self._entries = 0  # whose bodies are coming
        self._refused: Counter[str] = Counter()
        self._failed = 0
        self._ended: asyncio.Future[None] | None = None
        self._gone: SpoolFailed | None = None
        self._closed = False
        self._ignored: set[str] = set()
        self._reported: set[str] = set()
        self.notices: list[str] = []

    def __repr__(self) -> str:
        return f"<Store {self._directory} {self.figures().depth} records, {len(self._waiting)} jobs>"

    # Opening and closing.

    async def _open(self, worker: str) -> None:
        claims = await self._in_reader(self._own_claims, worker)
        self._ended = self._loop.create_future()
        self._writer.start()
        await self._upkeep(lambda writer: writer.adopt(claims))

    def _own_claims(self, worker: str) -> list[Claim]:
        """In the reader's thread: a worker's own files that are sound, or a new one."""
        try:
            files.make_directory(self._directory)
            return self._sound(files.claim_free(self._directory, worker)) or [self._new(worker)]
        except OSError as error:
            raise SpoolFailed(f"{self._directory}: {error.strerror or error}") from error

    def _new(self, worker: str) -> Claim:
        claim = files.create(self._directory, worker)
        try:
            schema.prepare(claim.path)
        except (sqlite3.Error, schema.Damaged) as error:
            claim.remove()
            raise SpoolFailed(f"{claim.path}: {error}") from error
        return claim

    def _sound(self, claims: Iterable[Claim]) -> list[Claim]:
        """Those that can be used. Raises ``OSError``."""
        sound: list[Claim] = []
        try:
            for claim in claims:
                sound.append(claim)
                if claim.key in self._ignored or not self._is_sound(claim):
                    sound.pop().release()
        except BaseException:
            for claim in sound:
                claim.release()
            raise
        return sound

    def _is_sound(self, claim: Claim) -> bool:
        """Damaged files are renamed; others that cannot be used are let alone, those of a later version
        until the next start."""
        try:
            schema.prepare(claim.path)
        except schema.Damaged as error:
            aside = claim.set_aside()
            self.notices.append(f"{claim.path}: is damaged ({error}); set aside as {aside.name}")
        except (schema.Newer, sqlite3.Error) as error:
            if isinstance(error, schema.Newer):
                self._ignored.add(claim.key)
            if claim.key not in self._reported:
                self._reported.add(claim.key)
                self.notices.append(f"{claim.path}: cannot be used ({error}); let alone")
        else:
            return True
        return False

    async def close(self) -> None:
        """Make everything that waits durable, and let go of the files; harmless the second time. Nothing
        may be asked any more."""
        if self._closed:
            return
        self._closed = True
        await self._in_reader(self._reader.close)  # first: the writer's is the last connection, and tidies up
        self._reading.shutdown()
        if self._ended is not None:
            self._writer.stop()
            await self._ended
            self._writer.join()

    # Records come.

    def append(self, record: SpoolRecord, body: bytes, done: Done) -> None:
        """Keep a record with its whole body; see ``Keeper``."""
        size = room(record, len(body))
        refusal = self._gone or self.reserve(size, record.upstream)
        if refusal is None and self._waiting_bytes + size > self._settings.memory:
            self.give_back(size)
            refusal = SpoolFull("memory")
        if refusal is not None:
            self.lost(refusal)
            self._loop.call_soon(done, refusal)
            return
        self.ask(Append(record, body, done, self._clock.monotonic()))

    def begin(self, record: SpoolRecord) -> PiecewiseEntry:
        """Begin a record whose body comes in pieces. Raises ``SpoolFull`` or ``SpoolFailed``."""
        size = room(record, record.length or 0)
        refusal = self._gone or self.reserve(size, record.upstream)
        pieces = (self._entries + 1) * self._settings.piece
        if refusal is None and self._waiting_bytes + pieces > self._settings.memory:
            self.give_back(size)
            refusal = SpoolFull("memory")
        if refusal is not None:
            self.lost(refusal)
            raise refusal
        self._entries += 1
        return PiecewiseEntry(self, record, self._settings.piece, size)

    # What entries need (entry.Owner).

    @property
    def crowded(self) -> bool:
        """Whether so much waits for the disk that everybody should wait."""
        return self._waiting_bytes > self._settings.memory // 2

    def reserve(self, size: int, upstream: str) -> SpoolFull | None:
        """Set room aside for a record; return why there is none."""
        if self._stored + self._reserved + size > self._most_bytes:
            return SpoolFull("bytes")
        if self._state.disk_full:
            return SpoolFull("disk")
        waiting = self._state.upstreams.get(upstream)
        oldest = None if waiting is None else waiting.oldest
        if oldest is not None and self._clock.wall() - oldest > self._settings.max_age:
            return SpoolFull("age")
        self._reserved += size
        return None

    def give_back(self, size: int) -> None:
        """Room that was reserved is not needed, or is counted among what is stored."""
        self._reserved -= size

    def lost(self, error: Error) -> None:
        """Count a record that was not taken."""
        if isinstance(error, SpoolFull):
            self._refused[error.reason] += 1
        else:
            self._failed += 1

    def ended(self) -> None:
        """An entry holds no memory any more."""
        self._entries -= 1

    def now(self) -> float:
        """Return the time (monotonic)."""
        return self._clock.monotonic()

    def ask(self, job: Job) -> None:
        """Hand a job to the writer; where that is gone, it fails."""
        if self._gone is not None:
            self._loop.call_soon(job.finish, self._gone)
            return
        self._waiting.append(job)
        self._waiting_bytes += job.size
        self._writer.ask(job)

    # Records go.

    async def oldest(self, upstream: str, count: int, after: RecordId | None = None) -> list[Stored]:
        """Return the first records of an upstream behind ``after``. Raises ``SpoolFailed``."""
        recent = self._recent.oldest(upstream, count, after)
        if recent is not None:
            return recent
        return await self._in_reader(self._reader.oldest, self._state.keys, upstream, count, after)

    async def body(self, stored: Stored) -> AsyncIterator[bytes]:
        """Yield a body in pieces. Raises ``SpoolFailed`` where it is not whole."""
        if stored.inline is not None:
            yield stored.inline
            return
        left, number = stored.length, 0
        while left > 0:
            piece = await self._in_reader(self._reader.body, stored, number)
            if piece is None:
                raise SpoolFailed(f"record {stored.id} ends {left} bytes early")
            left -= len(piece)
            number += 1
            yield piece

    async def delivered(self, ids: Sequence[RecordId]) -> None:
        """Forget records. Raises ``SpoolFailed`` (or ``SpoolFull``) where the disk does not let us."""
        by_file: dict[str, list[RecordId]] = {}
        for record in ids:
            by_file.setdefault(record.file, []).append(record)
        for key, records in by_file.items():
            rows = [record.row for record in records]
            await self._changed(partial(Remove, key, rows, partial(self._recent.gone, records)))

    async def set_aside(self, record: RecordId, status: int, reason: str) -> None:
        """Make a record a dead letter. Raises as ``delivered``."""
        note = partial(self._recent.gone, [record])
        await self._changed(
            partial(Change, record.file, lambda table: table.set_aside(record.row, status, reason), note)
        )

    async def postponed(self, record: RecordId) -> None:
        """Count one more attempt. Raises as ``delivered``."""
        note = partial(self._recent.postponed, record)
        await self._changed(partial(Change, record.file, lambda table: table.postpone([record.row]), note))

    async def _changed(self, job: Callable[[asyncio.Future[None], float], Job]) -> None:
        """Have a job done that somebody awaits."""
        future: asyncio.Future[None] = self._loop.create_future()
        self.ask(job(future, self._clock.monotonic()))
        await future

    # Upkeep.

    async def tend(self) -> Tended:
        """Look after the files; to be called every few seconds. Raises ``SpoolFailed``."""
        replay_now = await self._upkeep(Writer.tend)
        await self._in_reader(self._reader.use, self._state.keys)
        await self._upkeep(Writer.remove_retired)
        claims = await self._in_reader(self._free_claims)
        if claims:
            await self._upkeep(lambda writer: writer.adopt(claims))
        notices, self.notices = self.notices, []
        return Tended(len(claims), bool(replay_now), tuple(notices))

    def _free_claims(self) -> list[Claim]:
        """In the reader's thread: the files of workers that are gone."""
        try:
            return self._sound(files.claim_free(self._directory))
        except OSError as error:
            raise SpoolFailed(f"{self._directory}: {error.strerror or error}") from error

    async def _upkeep(self, action: Callable[[Writer], T]) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        self.ask(Upkeep(action, future, self._clock.monotonic()))
        return await future

    async def _in_reader(self, read: Callable[[Unpack[Ts]], T], *given: *Ts) -> T:
        return await self._loop.run_in_executor(self._reading, read, *given)

    def figures(self) -> Figures:
        """Return the state as of the last commit."""
        state = self._state
        return Figures(
            state.upstreams,
            state.dead_letters,
            state.dead_letter_bytes,
            state.dropped_dead_letters,
            dict(self._refused),
            self._failed,
            self._waiting_bytes,
            len(state.keys),
        )

    # What the writer says.

    def _hand_over(self, batch: Batch) -> None:
        """In the writer's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to hear it
            self._loop.call_soon_threadsafe(self._on_batch, batch)

    def _on_batch(self, batch: Batch) -> None:
        self._state = batch.state
        self._stored = sum(upstream.bytes for upstream in batch.state.upstreams.values())
        for job, error in batch.finished:
            if error is None:
                job.committed(self._recent)
        self._recent.settle(batch.state.upstreams)
        for job, error in batch.finished:
            self._waiting_bytes -= job.size
            if isinstance(job, Append):
                self._reserved -= job.size
            if not job.answered:
                self._waiting.popleft()
                self._answer(job, error)
        if batch.last:
            self._gone = SpoolFailed("the store is closed")
            while self._waiting:
                self._answer(self._waiting.popleft(), self._gone)
            if self._ended is not None:
                self._ended.set_result(None)

    def _answer(self, job: Job, error: Error | None) -> None:
        job.answered = True
        if error is not None and isinstance(job, Append):
            self.lost(error)
        try:
            job.finish(error)
        except Exception as raised:  # noqa: BLE001 -- one caller's mistake must not leave the others waiting
            self._loop.call_exception_handler({"message": f"in the callback of {job!r}", "exception": raised})

    # Time (clock.Timed).

    @property
    def due(self) -> float:
        """When the disk has taken too long for whoever waits longest (monotonic)."""
        return self._waiting[0].since + self._settings.commit_timeout if self._waiting else NEVER

    def expire(self) -> None:
        """Tell everybody who has waited too long that the disk failed."""
        late = SpoolFailed(f"the disk has taken longer than {self._settings.commit_timeout:g} s")
        now = self._clock.monotonic()
        while self.due <= now:
            self._answer(self._waiting.popleft(), late)
