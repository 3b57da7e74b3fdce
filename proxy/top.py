"""`posthog-proxy top`: the figures of the status page in a terminal, asked of the admin listener each second.

Drawn with rich, which nothing else imports: `pip install 'posthog-proxy[top]'`.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from proxy.config.schema import TcpAddress, UnixAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.console import RenderableType

    from proxy.config.schema import ListenAddress

Figures = dict[str, Any]

BLOCKS = "▁▂▃▄▅▆▇█"

SPARK = 30
"""Intervals of a sparkline that are shown."""

PATIENCE = 5.0
"""Seconds for an answer."""

MAX_BYTES = 4 * 1024 * 1024
"""Of an answer."""

NOT_ANSWERING = "the admin listener does not answer"


class AskError(Exception):
    """The figures cannot be had; the text says why."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        """Connect to the path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


def ask(address: ListenAddress, token: bytes = b"") -> Figures:
    """Ask once. Raises ``AskError``."""
    connection: http.client.HTTPConnection
    if isinstance(address, UnixAddress):
        connection = _UnixConnection(address.path)
    else:
        connection = http.client.HTTPConnection(_reachable(address), address.port, timeout=PATIENCE)
    fields = {"Authorization": f"Bearer {token.decode()}"} if token else {}
    try:
        connection.request("GET", "/status.json", headers=fields)
        answer = connection.getresponse()
        body = answer.read(MAX_BYTES)
        if answer.status != 200:
            raise AskError(
                f"{address} answers {answer.status}: {body[:200].decode('utf-8', 'replace').strip()}"
            )
        figures: Figures = json.loads(body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise AskError(f"{address}: {NOT_ANSWERING}: {error}") from error
    finally:
        connection.close()
    return figures


def _reachable(address: TcpAddress) -> str:
    """Where one that listens everywhere can be asked."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)


def run(
    address: ListenAddress,
    token: bytes = b"",
    *,
    once: bool = False,
    console: Console | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Show the figures until interrupted, or ``once``; the exit status: 1 if the first cannot be had."""
    console = console or Console()
    try:
        figures = ask(address, token)
    except AskError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    if once:
        console.print(view(figures))
        return 0
    try:
        with Live(view(figures), console=console, screen=True, auto_refresh=False) as live:
            while True:
                sleep(1.0)
                try:
                    figures, trouble = ask(address, token), ""
                except AskError as error:
                    trouble = str(error)
                live.update(view(figures, trouble), refresh=True)
    except KeyboardInterrupt:
        return 0


def view(figures: Figures, trouble: str = "") -> RenderableType:
    """Return the figures as something to be printed; ``trouble``: why there are no newer ones."""
    parts: list[RenderableType] = [_headline(figures)]
    if trouble:
        parts.append(Text(trouble, style="bold red"))
    if not figures["last_reload"]:
        parts.append(Text("The last reload was refused: see reload_failed in the error log.", style="red"))
    parts += [_warning(each) for each in figures["warnings"]]
    parts += [_classes(figures["classes"]), _upstreams(figures["upstreams"]), _rest(figures)]
    return Group(*parts)


def _headline(figures: Figures) -> Text:
    requests, fast = figures["requests"], figures["fast_path"]["share"]
    text = Text.assemble(
        ("posthog-proxy ", "bold"),
        (figures["state"], "green" if figures["state"] == "ready" else "bold red"),
        f"  {figures['version']}, up {span(figures['uptime'])}",
    )
    if figures["workers"] > 1:
        text.append(f", {figures['workers']} workers")
    text.append(
        f"\n{requests['events_per_second']:g} event requests/s, {requests['per_second']:g} requests/s, "
    )
    text.append(f"{requests['in_flight']} in flight, {requests['connections']} connections")
    if fast is not None:
        text.append(f", {fast:.0%} on the fast path")
    return text


def _warning(warned: Figures) -> Panel:
    title = warned["event"].replace("_", " ")
    about = " · ".join(f"{key} {value}" for key, value in warned["about"].items() if value)
    return Panel(Text(f"{warned['cure']}\n{about}"), title=title, title_align="left", border_style="red")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", overflow="fold")
    return table


def _classes(classes: Iterable[Figures]) -> Table:
    table = _table("class", "a second", "last minute", "in all")
    for each in classes:
        table.add_row(
            Text(each["name"]), f"{each['per_second']:g}", sparkline(each["spark"]), f"{each['total']:,}"
        )
    return table


def _upstreams(upstreams: Iterable[Figures]) -> Table:
    table = _table("upstream", "state", "p50", "p95", "idle", "busy", "waiting", "breaker", "failures")
    for each in upstreams:
        state = Text("up", "green") if each["up"] else Text(f"down {each['reason']}".strip(), "bold red")
        breaker = ", ".join(f"{state} {count}" for state, count in each["breaker"].items())
        table.add_row(
            Text(each["name"]),
            state,
            duration(each["p50"]),
            duration(each["p95"]),
            *(str(each[name]) for name in ("idle", "in_use", "waiting")),
            breaker,
            f"{each['failures']:,}",
        )
    return table


def _rest(figures: Figures) -> Text:
    """What fits a line each."""
    lines = {
        "answers": [
            f"{each['code']} {each['total']:,} ({each['per_second']:g}/s)" for each in figures["statuses"]
        ],
        "client addresses from": [f"{each['name']} {each['total']:,}" for each in figures["client_sources"]],
        "refused": [f"{each['name']} {each['total']:,}" for each in figures["rejected"]],
        "certificates": [f"{each['name']} {each['days_left']} days" for each in figures["certificates"]],
    }
    spool = figures["spool"]
    if spool is not None:
        lines["spool"] = [f"{spool['requests']:,} requests", f"oldest {span(spool['oldest_seconds'])}"]
    text = Text()
    for name, values in lines.items():
        if values:
            text.append(f"{name} ", "dim").append(", ".join(values)).append("\n")
    return text


def sparkline(values: Sequence[float]) -> str:
    """Return the last values as blocks, the highest as a whole one."""
    shown = values[-SPARK:]
    high = max(shown, default=0.0)
    if high <= 0:
        return BLOCKS[0] * len(shown)
    return "".join(BLOCKS[round(value / high * (len(BLOCKS) - 1))] for value in shown)


def duration(seconds: float | None) -> str:
    """Return a latency for reading."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def span(seconds: float) -> str:
    """Return an age in its largest unit."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
