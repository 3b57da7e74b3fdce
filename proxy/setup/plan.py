"""What `init` writes and says: files with their text, advice line by line. Pure.

The units are those in units/, which can also be copied by hand; only the program's path and the listening
addresses are put in.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.config.notation import NotationError, listen_address
from proxy.config.schema import TcpAddress, UnixAddress
from proxy.config.sources import Sources
from proxy.errors import ConfigError, Problem
from proxy.rules.decide import Tables

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterable, Sequence

    from proxy.config.schema import ListenAddress

CONFIG = "/etc/posthog-proxy/posthog-proxy.toml"
SPOOL = "/var/lib/posthog-proxy/spool"
"""Below the unit's StateDirectory."""
ADMIN = "unix:/run/posthog-proxy/admin.sock"
"""In the unit's RuntimeDirectory."""
SERVICE = "/etc/systemd/system/posthog-proxy.service"
SOCKET = "/etc/systemd/system/posthog-proxy.socket"
ENABLE = "systemctl enable --now posthog-proxy.socket posthog-proxy.service"
DISABLE = "systemctl disable --now posthog-proxy.socket posthog-proxy.service"

UNITS = Path(__file__).with_name("units")
_PROGRAM = "/usr/local/bin/posthog-proxy"
_LISTEN_STREAM = "ListenStream=0.0.0.0:80\n"

_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""What ProtectHome=yes and PrivateTmp=yes take from the service's sight."""

_CLOUD = re.compile(r"posthog-cloud-(us|eu)")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator wants; empty: nothing was said."""

    preset: str = ""
    upstream: str = ""
    behind: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    listen: tuple[str, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where to listen: for everybody, or only for the nginx that stands on the same host."""
        return self.listen or (("127.0.0.1:8000",) if "nginx" in self.behind else ("0.0.0.0:80",))


@dataclass(frozen=True, slots=True)
class Plan:
    """``files``: text by path. ``warnings``: what the configuration's reading has to say about it."""

    files: dict[str, str]
    warnings: tuple[str, ...] = ()


def plan(wish: Wish, program: Sequence[str], alias: str, today: datetime.date) -> Plan:
    """Return what is to be written.

    :param program: how the proxy is started, as words.
    :param alias: the site's own name for PostHog (config/aliases.py, ``suggested_prefix``).
    :param today: for the age of the networks that ship with the proxy.
    :raises ConfigError: the configuration would not be usable, with each problem.
    """
    config = config_text(wish, alias)
    loaded = Sources("init", toml=config.encode()).load({}, today)
    Tables.of(loaded.config)
    streams = [listen_stream(text) for text in wish.addresses]
    files = {CONFIG: config, SERVICE: service_text(program), SOCKET: socket_text(streams)}
    return Plan(files, loaded.warnings)


def config_text(wish: Wish, alias: str) -> str:
    """The configuration: what was wanted, and nothing that is a default anyway."""
    lines = [
        "# Written by `posthog-proxy init`. Every key stands in docs/configuration.md; after a change:",
        "#   posthog-proxy check --config " + CONFIG + " && systemctl reload posthog-proxy",
        f"listen = {_toml(wish.addresses)}    # the same addresses stand in {Path(SOCKET).name}",
    ]
    if wish.preset:
        lines.append(f"preset = {_toml(wish.preset)}")
    if wish.upstream:
        lines.append(f"upstream = {_toml(wish.upstream)}")
    if wish.behind:
        lines.append(f"behind = {_toml(wish.behind)}")
    lines.append('workers = "auto"')
    lines += [
        "",
        "[spool]",
        "# Events and session replay are kept here while PostHog is away, and delivered later.",
        f"directory = {_toml(SPOOL)}",
        "",
        "[admin]",
        "# Metrics, status page, drain: posthog-proxy top " + ADMIN,
        f"listen = {_toml(ADMIN)}",
    ]
    if wish.hosts:
        lines += ["", "[access]", f"allowed_hosts = {_toml(wish.hosts)}"]
    lines += [
        "",
        "[aliases]",
        "# Below this name no ad blocker's list recognises PostHog: it is the end of posthog-js's api_host.",
        "# It was made for this site. Keep it: pages that are open somewhere go on using it.",
        f"prefix = {_toml(alias)}",
    ]
    return "\n".join(lines) + "\n"


def _toml(value: str | Sequence[str]) -> str:
    """A string or a list of strings; what JSON writes is TOML too."""
    return json.dumps(value if isinstance(value, str) else list(value), ensure_ascii=False)


def service_text(program: Sequence[str]) -> str:
    """The service unit for a program. Its words are quoted as systemd.service(5) wants it."""
    template = (UNITS / Path(SERVICE).name).read_text("utf-8")
    return template.replace(f"={_PROGRAM} ", f"={' '.join(map(_word, program))} ")


def _word(text: str) -> str:
    text = text.replace("%", "%%")
    return json.dumps(text, ensure_ascii=False) if re.search(r"[\s\"'\\;]", text) else text


def socket_text(streams: Iterable[str]) -> str:
    """The socket unit for the addresses of ``listen_stream``."""
    template = (UNITS / Path(SOCKET).name).read_text("utf-8")
    return template.replace(_LISTEN_STREAM, "".join(f"ListenStream={stream}\n" for stream in streams))


def listen_stream(text: str) -> str:
    """An address of `listen` as systemd.socket(5) writes it. Raises ``ConfigError``."""
    try:
        address = listen_address(text)
        return address.path if isinstance(address, UnixAddress) else _numeric(address)
    except (NotationError, ValueError) as error:
        allowed = str(error) if isinstance(error, NotationError) else "must be a number: systemd opens it"
        raise ConfigError(Problem("listen", text, allowed)) from None


def _numeric(address: TcpAddress) -> str:
    host = "127.0.0.1" if address.host == "localhost" else address.host
    return str(TcpAddress(str(ipaddress.ip_address(host)), address.port))


def hidden(paths: Iterable[str]) -> list[str]:
    """Return those of ``paths`` that the service could not see."""
    return [path for path in paths if any(Path(path).is_relative_to(place) for place in _HIDDEN)]


def advice(wish: Wish, alias: str) -> list[str]:
    """What to do next, line by line."""
    host = next((host for host in wish.hosts if not host.startswith((".", "*"))), "")
    question = _question(listen_address(wish.addresses[0]), host)
    said = ["Next:", "  systemctl daemon-reload", f"  {ENABLE}", f"  {question}"]
    if cloud := _CLOUD.fullmatch(wish.preset):
        ui_host = f"https://{cloud[1]}.posthog.com"
    else:
        ui_host = "<address of PostHog itself>"
        said += [
            "Tell PostHog who stands in front of it, in its environment:",
            "  IS_BEHIND_PROXY=true TRUSTED_PROXIES=<this host's address, as PostHog sees it>",
        ]
    api_host = f"https://{host or '<public name of this host>'}{alias}"
    said += [
        "In posthog-js:",
        f'  posthog.init("<project key>", {{ api_host: "{api_host}", ui_host: "{ui_host}" }})',
    ]
    if not wish.behind:
        said.append(
            "Whoever connects counts as the client. If a balancer or a CDN stands in front: --behind."
        )
    return said


def _question(address: ListenAddress, host: str) -> str:
    """A command that shows whether it answers, and PostHog behind it."""
    asked = f"curl -i -H 'Host: {host}'" if host else "curl -i"
    if isinstance(address, UnixAddress):
        return f"{asked} --unix-socket {address.path} http://localhost/_health"
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    return f"{asked} http://{TcpAddress(reached, address.port)}/_health"
