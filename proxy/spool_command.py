"""The command `posthog-proxy spool`: what waits, what was refused, and what an operator wants done with it.

It works on the files, also while a proxy uses them (proxy/spool/inventory.py). Exit status: 0, or 1 where the
files cannot be used or what was named is not there, 2 where the command line or the configuration is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.clock import Clock
from proxy.config.notation import printable, size_text
from proxy.spool.inventory import Inventory, SpoolUnusable
from proxy.spool.record import total, upstream_of
from proxy.spool.transfer import export_to, import_from, line_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from proxy.spool.inventory import FileFigures, Held
    from proxy.spool.record import UpstreamFigures

    Command: TypeAlias = Callable[[argparse.Namespace, Inventory, Clock], int]

_DESCRIPTION = "Look into the spool, also while a proxy uses it, and do what only an operator decides."


def main(arguments: Sequence[str], clock: Clock | None = None) -> int:
    """Run one command and return the exit status. A wrong command line raises ``SystemExit`` (2)."""
    options = _parser().parse_args(arguments)
    directory = options.spool or _configured_directory(options)
    if directory is None:
        return 2
    command: Command = options.command
    try:
        return command(options, Inventory(Path(directory)), clock or Clock())
    except (SpoolUnusable, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _configured_directory(options: argparse.Namespace) -> str | None:
    """Where the configuration says that the spool is; says so where it does not."""
    from proxy.config.load import load_config
    from proxy.errors import ConfigError

    try:
        directory = load_config(options.config, os.environ).config.spool.directory
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return None
    if not directory:
        print("error: no spool is configured: say --spool DIR, or --config FILE", file=sys.stderr)
        return None
    return directory


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="posthog-proxy spool", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--spool", metavar="DIR", help="the spool's directory")
    parser.add_argument("--config", "-c", metavar="FILE", help="the configuration that names it")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(run: Command, name: str, text: str, group: Any = commands) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = group.add_parser(name, help=text, allow_abbrev=False)
        made.set_defaults(command=run, dead=group is not commands)
        return made

    stat = command(_stat, "stat", "how much waits in each queue, and since when")
    stat.add_argument("--json", action="store_true", help="one JSON object")
    _add_choice(command(_list, "list", "the records that wait, oldest first"))
    show = command(_show, "show", "one record: its head, or its body")
    show.add_argument("id", metavar="ID", help="as `list` shows it")
    show.add_argument("--body", action="store_true", help="the body and nothing else, as it is")
    replay = command(_replay, "replay", "have the running proxy deliver at once")
    replay.add_argument("--now", action="store_true", required=True, help="do not wait for the next probe")
    export = command(_export, "export", "write records as lines of JSON; they stay in the spool")
    export.add_argument("file", metavar="FILE", nargs="?", help="default: standard output")
    export.add_argument("--upstream", metavar="NAME", help="only for this upstream, or in this queue")
    export.add_argument("--dead-letters", dest="dead", action="store_true", help="dead letters instead")
    bring = command(_import, "import", "read such lines; a running proxy takes them over in seconds")
    bring.add_argument("file", metavar="FILE", nargs="?", help="default: standard input")

    letters = commands.add_parser("dead-letter", help="what PostHog refused for good", allow_abbrev=False)
    group = letters.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_choice(command(_list, "list", "the dead letters, oldest first", group))
    for run, name, text in (
        (_retry, "retry", "deliver dead letters again"),
        (_drop, "drop", "delete dead letters for good"),
    ):
        made = command(run, name, text, group)
        which = made.add_mutually_exclusive_group(required=True)
        which.add_argument("ids", metavar="ID", nargs="*", default=[], help="as `dead-letter list` shows it")
        which.add_argument("--all", action="store_true", help="all of them")
    return parser


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--upstream", metavar="NAME", help="only for this upstream, or in this queue")
    parser.add_argument("--limit", metavar="N", type=int, default=100, help="at most N (default 100)")
    parser.add_argument("--json", action="store_true", help="a JSON object a line, without bodies")


def _stat(options: argparse.Namespace, inventory: Inventory, clock: Clock) -> int:
    figures = inventory.figures()
    upstreams = total(file.upstreams for file in figures)
    if options.json:
        print(json.dumps(_as_json(figures, upstreams, inventory.damaged())))
        return 0
    rows = [("queue", "records", "bytes", "oldest")]
    for name, found in sorted(upstreams.items()):
        age = _age(clock.wall() - (found.oldest or 0.0))
        rows.append((name, f"{found.depth:,}", _size(found.bytes), age))
    _print_table(rows if upstreams else [("nothing waits",)])
    dead = sum(file.dead_letters for file in figures)
    if dead:
        print(f"dead letters: {dead:,} ({_size(sum(file.dead_letter_bytes for file in figures))})")
    for file in figures:
        print(f"file {file.name}: {'in use' if file.owned else 'unused; the next proxy takes it over'}")
    for name in inventory.damaged():
        print(f"damaged: {name}")
    return 0


def _as_json(
    figures: Sequence[FileFigures], upstreams: dict[str, UpstreamFigures], damaged: list[str]
) -> dict[str, Any]:
    return {
        "upstreams": {
            name: {"records": found.depth, "bytes": found.bytes, "oldest": found.oldest}
            for name, found in sorted(upstreams.items())
        },
        "dead_letters": sum(file.dead_letters for file in figures),
        "dead_letter_bytes": sum(file.dead_letter_bytes for file in figures),
        "files": {file.name: {"in_use": file.owned} for file in figures},
        "damaged": damaged,
    }


def _chosen(options: argparse.Namespace, inventory: Inventory) -> Iterable[Held]:
    for held in inventory.records(dead=options.dead):
        queue = held.stored.upstream
        if options.upstream in (None, queue, upstream_of(queue)):
            yield held


def _list(options: argparse.Namespace, inventory: Inventory, clock: Clock) -> int:
    rows = [("id", "arrived", "queue", "route", "bytes", "attempts", *(("refused",) * options.dead))]
    for number, held in enumerate(_chosen(options, inventory)):
        if number >= options.limit:
            print(f"only the first {options.limit}; see --limit", file=sys.stderr)
            break
        if options.json:
            print(json.dumps({"id": str(held.stored.id), **line_of(held)}))
        else:
            rows.append(_row(held))
    if not options.json:
        _print_table(rows)
    return 0


def _row(held: Held) -> tuple[str, ...]:
    stored = held.stored
    refused = (f"{held.status} {_plain(held.reason or '')}",) if held.status is not None else ()
    return (
        str(stored.id),
        _time(stored.arrived),
        stored.upstream,
        stored.route,
        _size(stored.length),
        str(stored.attempts),
        *refused,
    )


def _show(options: argparse.Namespace, inventory: Inventory, clock: Clock) -> int:
    held = inventory.find(options.id)
    if options.body:
        for piece in inventory.body(held.stored.id):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return 0
    stored = held.stored
    lines = [
        ("id", str(stored.id)),
        ("arrived", _time(stored.arrived)),
        ("queue", stored.upstream),
        ("route", stored.route),
        ("client", stored.client.decode("latin-1")),
        ("body", f"{stored.length} bytes"),
        ("attempts", str(stored.attempts)),
    ]
    if held.status is not None:
        lines.append(("refused", f"{held.status} {held.reason or ''}"))
    for name, value in lines:
        print(f"{name + ':':<10}{_plain(value)}")
    print()
    for line in stored.head.decode("latin-1").split("\r\n")[:-2]:
        print(_plain(line))
    return 0


def _replay(options: argparse.Namespace, inventory: Inventory, clock: Clock) -> int:
    owned = inventory.wish_for_replay()
    if owned == 0:
        print("error: no proxy has this spool open", file=sys.stderr)
        return 1
    print("the proxy tries within seconds")
    return 0


def _export(options: argparse.Namespace, inventory: Inventory, clock: Clock) -> int:
    with contextlib.ExitStack() as stack:
        write = sys.stdout.write
        if options.file is not None:
            descriptor = os.open(options.file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            write = stack.enter_context(open(descriptor, "w", encoding="ascii")).write
        count = export_to(write, inventory, _chosen(options, inventory))
    print(f"exported: {count:,}", file=sys.stderr)
    return 0


def _import(options: argparse.Namespace, inventory: Inventory, clock: Clock) -> int:
    with contextlib.ExitStack() as stack:
        lines = sys.stdin.buffer
        if options.file is not None:
            lines = stack.enter_context(open(options.file, "rb"))
        count = import_from(lines, inventory.directory)
    print(f"imported: {count:,}", file=sys.stderr)
    return 0


def _retry(options: argparse.Namespace, inventory: Inventory, clock: Clock) -> int:
    print(f"to be delivered again: {inventory.revive(None if options.all else options.ids):,}")
    return 0


def _drop(options: argparse.Namespace, inventory: Inventory, clock: Clock) -> int:
    print(f"dropped: {inventory.drop(None if options.all else options.ids):,}")
    return 0


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _plain(text: str) -> str:
    """Text from the network on an operator's terminal: control characters escaped."""
    return printable(text, len(text))


def _time(wall: float) -> str:
    return datetime.datetime.fromtimestamp(wall, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _age(seconds: float) -> str:
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {whole % 60}s"


def _size(count: int) -> str:
    for factor in (1024**3, 1024**2, 1024):
        if count >= factor:
            return f"{count / factor:.1f}{size_text(factor)[1:]}"
    return f"{count}B"
