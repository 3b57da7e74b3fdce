"""The servers behind the proxies. They run on the load's core and must not be what everyone waits for.

What they can do on one core shared with the generator stands in every report as the ceiling: the same load
straight at the origin.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.loads import Origin
from benchmarks.origins.answers import ANSWERS, Answer
from benchmarks.process import ROOT, Child, on_free_port
from benchmarks.templates import render

if TYPE_CHECKING:
    from contextlib import ExitStack

    from benchmarks.loads import Load

SMALL = 3_000
"""Bytes of a body up to which it stands in nginx's configuration (which takes words of 4 KB) instead of a
file, because a file cannot be posted to."""


def start_origin(load: Load, folder: Path, core: int, descriptors: int, stack: ExitStack) -> int:
    """Start the origin of ``load`` and return its port. ``stack`` ends it; it may open ``descriptors``."""
    if load.origin is Origin.NGINX:
        return _start_nginx(folder, core, descriptors, stack)
    argv = [sys.executable, "-m", "benchmarks.origins.reader", str(load.delay)]
    child = Child(argv, name="reader", core=core, folder=folder, env={"PYTHONPATH": str(ROOT)})
    stack.enter_context(child)
    child.wait_for(lambda: child.out.read_text().startswith("port "), "naming its port")
    return int(child.out.read_text().split()[1])


def _start_nginx(folder: Path, core: int, descriptors: int, stack: ExitStack) -> int:
    for answer in ANSWERS:
        (folder / answer.file).write_bytes(answer.body)
    config = folder / "origin.conf"

    def start(port: int) -> Child:
        config.write_text(
            render(
                Path(__file__).with_name("nginx.conf"),
                port=port,
                folder=folder,
                descriptors=descriptors,
                locations="\n".join(map(_location, ANSWERS)),
            )
        )
        argv = ["nginx", "-p", str(folder), "-c", str(config)]
        return Child(argv, name="origin", core=core, folder=folder)

    child, port = on_free_port(start)
    stack.enter_context(child)
    return port


def _location(answer: Answer) -> str:
    fields = "".join(f"add_header {name} {_quoted(value)}; " for name, value in answer.fields)
    if len(answer.body) <= SMALL:
        content = f"return 200 {_quoted(answer.body.decode())};"
    else:
        content = f"try_files /{answer.file} =404;"
    return f"location {answer.prefix} {{ default_type {_quoted(answer.content_type)}; {fields}{content} }}"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
