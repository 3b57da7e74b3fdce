"""Records as lines of JSON, to look at and to bring to another node.

::

    {"arrived": 1780000000.5, "upstream": "default", "route": "/e", "client": "192.0.2.1 phc_x",
     "head": "POST /e/ HTTP/1.1\\r\\n...", "length": 5, "attempts": 0, "status": null, "reason": null,
     "body": "aGVsbG8="}

``client`` and ``head`` are bytes as Latin-1 text, ``body`` is base64 and always last. A dead letter has a
``status``. An import becomes a file of its own that the next proxy to look takes over, whole or not at all.

Memory: an export holds a piece of a body, an import one line and ``BATCH`` bytes of records.
"""

from __future__ import annotations

import base64
import binascii
import json
import sqlite3
from itertools import chain
from typing import TYPE_CHECKING, Any

from proxy.errors import Violation
from proxy.message import FramingKind
from proxy.spool import files, schema
from proxy.spool.inventory import Gone, SpoolUnusable
from proxy.spool.record import ANY_HEAD, SpoolRecord
from proxy.spool.table import Table
from proxy.wire.heads import read_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from proxy.spool.inventory import Held, Inventory

BATCH = 8 * 1024 * 1024
IMPORTED = "import"
INLINE = 64 * 1024
"""Larger bodies are stored in pieces of this size."""

_TYPES: dict[str, tuple[type, ...]] = {
    "arrived": (int, float),
    "upstream": (str,),
    "route": (str,),
    "client": (str,),
    "head": (str,),
    "body": (str,),
}


def line_of(held: Held) -> dict[str, Any]:
    """Return what a line says of a record, but for the body."""
    stored = held.stored
    return {
        "arrived": stored.arrived,
        "upstream": stored.upstream,
        "route": stored.route,
        "client": stored.client.decode("latin-1"),
        "head": stored.head.decode("latin-1"),
        "length": stored.length,
        "attempts": stored.attempts,
        "status": held.status,
        "reason": held.reason,
    }


def export_to(write: Callable[[str], object], inventory: Inventory, records: Iterable[Held]) -> int:
    """Write a line for each record that is still there; return how many."""
    count = 0
    for held in records:
        pieces = inventory.body(held.stored.id)
        try:
            first = next(pieces, b"")
        except Gone:
            continue
        write(json.dumps(line_of(held))[:-1] + ', "body": "')
        for text in _base64(chain([first], pieces)):
            write(text)
        write('"}\n')
        count += 1
    return count


def _base64(pieces: Iterable[bytes]) -> Iterator[str]:
    """Encode pieces as one text: only the last may have a length that three does not divide."""
    rest = b""
    for piece in pieces:
        data = rest + piece
        whole = len(data) - len(data) % 3
        rest = data[whole:]
        yield base64.b64encode(data[:whole]).decode()
    yield base64.b64encode(rest).decode()


def import_from(lines: Iterable[bytes | str], directory: Path) -> int:
    """Read lines into a new file of the spool; return how many records. Raises ``SpoolUnusable``, and
    nothing is imported then."""
    try:
        files.make_directory(directory)
        claim = files.create(directory, IMPORTED)
    except OSError as error:
        raise SpoolUnusable(f"{directory}: {error.strerror}") from None
    table = None
    try:
        schema.prepare(claim.path)
        table = Table(schema.connect(claim.path))
        count = _fill(table, lines)
        table.close()
    except BaseException as error:
        if table is not None:
            table.close()
        claim.remove()
        if isinstance(error, sqlite3.Error):
            raise SpoolUnusable(f"{claim.path}: {error}") from None
        raise
    if count == 0:
        claim.remove()
    claim.release()
    return count


def _fill(table: Table, lines: Iterable[bytes | str]) -> int:
    count = size = 0
    table.begin()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            size += _add(table, json.loads(line))
        except (ValueError, TypeError) as error:
            raise SpoolUnusable(f"line {number}: {error}; nothing was imported") from None
        count += 1
        if size > BATCH:
            table.commit()
            table.begin()
            size = 0
    table.commit()
    return count


def _add(table: Table, values: Any) -> int:
    """Add a record; return the bytes of its body. Raises ``ValueError``."""
    if not isinstance(values, dict):
        raise ValueError("is no JSON object")
    for name, types in _TYPES.items():
        if not isinstance(values.get(name), types) or isinstance(values[name], bool):
            raise ValueError(f"{name!r} is missing, or of the wrong type")
    try:
        body = base64.b64decode(values["body"], validate=True)
        client, head = values["client"].encode("latin-1"), values["head"].encode("latin-1")
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError(str(error)) from None
    if not head.endswith(b"\r\n\r\n"):
        raise ValueError("'head' does not end in an empty line")
    try:
        framing = read_request(head, ANY_HEAD).framing
    except Violation as violation:
        raise ValueError(f"'head' is no request that could be sent ({violation.detail})") from None
    if framing.kind is FramingKind.CHUNKED or framing.length != len(body):
        raise ValueError(f"'head' does not announce the {len(body)} bytes of 'body'")
    arrived, status = float(values["arrived"]), values.get("status")
    record = SpoolRecord(arrived, values["upstream"], values["route"], client, head, len(body))
    row = _put(table, record, body)
    if isinstance(status, int):
        table.set_aside(row, status, str(values.get("reason") or ""))
    return len(body)


def _put(table: Table, record: SpoolRecord, body: bytes) -> int:
    if len(body) <= INLINE:
        return table.add([(record, body)])
    row = table.reserve_row()
    starts = range(0, len(body), INLINE)
    table.add_pieces([(row, number, body[at : at + INLINE]) for number, at in enumerate(starts)])
    table.add_in_pieces(row, record, len(body))
    return row
