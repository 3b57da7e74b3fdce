"""The command `posthog-proxy`: a thin user of the loader and the server.

Exit status: 0 after a clean stop, 1 where the system refuses (a port is taken, a log cannot be opened),
2 where the configuration or the command line is wrong, 128 + N after a second signal N.

Only what a command needs is imported, inside it: `--help` and `check` stay quick, and the running proxy
keeps nothing in memory that it does not use.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    import datetime
    import socket
    from collections.abc import Callable, Collection, Coroutine, Sequence
    from types import ModuleType

    from proxy.config.load import Loaded
    from proxy.config.schema import Config, FrontConfig, ListenAddress, ListenerConfig
    from proxy.config.sources import Sources
    from proxy.notify import Notifier

PROGRAM = "posthog-proxy"

_DESCRIPTION = (
    "The reverse proxy that knows PostHog: right client addresses, no redirect loops, no lost replays."
)

# Each flag that stands for one key of the configuration, and its help.
_KEY_FLAGS = {
    "listen": ("HOST:PORT|unix:/PATH", "where to listen; may be repeated, or a list with commas"),
    "listen_tls": ("HOST:PORT", "where to listen for https; may be repeated"),
    "tls.certificate": ("FILE", "PEM file of the certificate and its intermediates"),
    "tls.key": ("FILE", "PEM file of its private key"),
    "preset": ("NAME", "where PostHog runs: posthog-cloud-us, posthog-cloud-eu, self-hosted or hobby"),
    "behind": ("LIST", "what stands in front: cloudflare, aws-alb, aws-nlb, gcp, nginx, private, addresses"),
    "upstream": ("URL", "PostHog: http://host[:port], https://host[:port] or unix:/path"),
    "trust.proxies": ("LIST", "addresses and CIDR blocks of the proxies in front, with commas"),
    "access.allowed_hosts": ("LIST", "hosts that are served, as in Django: name, .example.com or *"),
    "access.allowed_ip_blocks": ("LIST", "who may use what is not public: addresses and CIDR blocks"),
    "workers": ("N|auto", "worker processes; auto: one for each CPU"),
    "spool.directory": ("DIR", "keep events and replay there while PostHog is away, deliver them later"),
    "spool.mode": ("MODE", "fallback (default): keep what PostHog did not take; first: keep, then deliver"),
    "log.format": ("json|text", "format of the logs"),
    "log.access": ("TARGET", "access log: stdout, stderr, off or a file's path"),
    "log.errors": ("TARGET", "error log: stdout, stderr, off or a file's path"),
}

_INQUIRIES = {
    "explain": "why one request is treated as it is, and what is sent upstream, header by header",
    "doctor": "ask the upstreams and look at the configuration; one line a finding, with its cure",
}
"""Commands that ask about a configuration; each is a package of its own."""

_REPEATED = frozenset({"listen", "listen_tls"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status. A wrong command line raises ``SystemExit`` (2)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["demo"]:  # it has a parser of its own
        return _demo(words[1:])
    if words[:1] == ["init"]:  # so has it
        return _init(words[1:])
    if words[:1] == ["spool"]:
        return _spool(words[1:])
    options = _parser(words[:1]).parse_args(words)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _parser(asked: Sequence[str] = ()) -> argparse.ArgumentParser:
    """``asked``: the command, if it is known; only its own module is read."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "--version", action="store_const", dest="command", const=_version, default=_help(parser)
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    run = commands.add_parser(
        "run", help="serve until SIGTERM or SIGINT, then drain; SIGHUP reloads", allow_abbrev=False
    )
    _add_configuration_flags(run)
    run.set_defaults(command=_run, parser=run)
    check = commands.add_parser(
        "check", help="only read the configuration; exit 2 if it is wrong", allow_abbrev=False
    )
    _add_configuration_flags(check)
    check.set_defaults(command=_check, parser=check)
    commands.add_parser("init", help="set it up as a service under systemd, or take it away", add_help=False)
    routes = commands.add_parser(
        "routes", help="print where each path goes, who may ask for it, and its limits", allow_abbrev=False
    )
    _add_configuration_flags(routes)
    routes.add_argument("--json", action="store_true", help="as JSON")
    routes.set_defaults(command=_routes, parser=routes)
    for name, text in _INQUIRIES.items():
        inquiry = commands.add_parser(name, help=text, allow_abbrev=False)
        _add_configuration_flags(inquiry)
        if name in asked:
            _inquiry(name).add_arguments(inquiry)
        inquiry.set_defaults(command=_inquire, parser=inquiry, inquiry=name)
    reference = commands.add_parser("config-reference", help="print the documentation of every key")
    reference.set_defaults(command=_config_reference)
    top = commands.add_parser(
        "top", help="a running proxy's figures, live, from its admin listener", allow_abbrev=False
    )
    _add_configuration_flags(top)
    top.add_argument(
        "address",
        nargs="?",
        metavar="ADDRESS",
        help="HOST:PORT or unix:/path; else as the configuration says",
    )
    top.add_argument("--token-file", metavar="FILE", default="", help="the token that ADDRESS asks for")
    top.add_argument("--once", action="store_true", help="print them once")
    top.set_defaults(command=_top, parser=top)
    commands.add_parser(
        "demo", help="the proxy before a stand-in for PostHog, with a real event", add_help=False
    )
    commands.add_parser("spool", help="what waits for PostHog, and what it refused", add_help=False)
    return parser


def _add_configuration_flags(parser: argparse.ArgumentParser) -> None:
    from proxy.config.load import FLAGS

    parser.add_argument(
        "--config", "-c", metavar="FILE", help="TOML file; environment and flags are stronger"
    )
    for key, (metavar, text) in _KEY_FLAGS.items():
        action = "append" if key in _REPEATED else "store"
        parser.add_argument(FLAGS[key], dest=key, metavar=metavar, help=text, action=action)
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="any key of the configuration, such as timeouts.head=5s; may be repeated",
    )


def _inquiry(name: str) -> ModuleType:
    """The module `command` of an inquiry: ``add_arguments``, and ``run`` with what was loaded."""
    return import_module(f"proxy.{name}.command")


def _inquire(options: argparse.Namespace) -> int:
    read = _load(options)
    if read is None:
        return 2
    status: int = _inquiry(options.inquiry).run(options, read[1])
    return status


def _help(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    def show(options: argparse.Namespace) -> int:
        parser.print_help(sys.stderr)
        return 2

    return show


def _version(options: argparse.Namespace) -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(PROGRAM, version(PROGRAM))
    except PackageNotFoundError:
        print(PROGRAM, "(run from its source, not installed)")
    return 0


def _config_reference(options: argparse.Namespace) -> int:
    from proxy.config.reference import reference

    sys.stdout.write(reference())
    return 0


def _top(options: argparse.Namespace) -> int:
    found = _admin(options)
    if found is None:
        return 2
    address, token = found
    try:
        from proxy.top import run
    except ModuleNotFoundError as error:
        print(
            f"error: {(error.name or '').partition('.')[0]} is missing: pip install 'posthog-proxy[top]'",
            file=sys.stderr,
        )
        return 1
    return run(address, token, once=options.once)


def _admin(options: argparse.Namespace) -> tuple[ListenAddress, bytes] | None:
    """Where operators ask, and with which token; what is wrong is said."""
    from proxy.config.admin import read_token
    from proxy.config.notation import NotationError, listen_address

    address, path = None, options.token_file
    try:
        if options.address is not None:
            address = listen_address(options.address)
        else:
            read = _load(options)
            if read is None:
                return None
            address, path = read[1].config.admin.listen, path or read[1].config.admin.token_file
        if address is not None:
            return address, read_token(path)
        print("error: admin.listen is not set: there is nobody to ask", file=sys.stderr)
    except NotationError as error:
        print(f"error: {options.address!r} {error}", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"error: {path}: {error}", file=sys.stderr)
    return None


def _demo(arguments: list[str]) -> int:
    from proxy.standin.demo import main as demo

    return demo(arguments)


def _spool(arguments: list[str]) -> int:
    from proxy.spool_command import main as spool

    return spool(arguments)


def _init(arguments: list[str]) -> int:
    from proxy.setup.command import main as init

    return init(arguments)


def _load(options: argparse.Namespace) -> tuple[Sources, Loaded] | None:
    """Read the configuration; print every problem on a line of its own and return ``None`` if it is wrong."""
    from proxy.config.sources import Sources
    from proxy.errors import ConfigError
    from proxy.rules.decide import Tables

    try:
        sources = Sources(options.config, _flags(options)).fetch()
        loaded = sources.load(os.environ, _today())
        Tables.of(loaded.config)  # the rules may find something wrong, too
        return sources, loaded
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return None


def _today() -> datetime.date:
    import datetime

    from proxy.clock import Clock

    return datetime.datetime.fromtimestamp(Clock().wall(), datetime.UTC).date()


def _flags(options: argparse.Namespace) -> dict[str, Any]:
    """The flags as dotted keys with their text."""
    flags = {key: getattr(options, key) for key in _KEY_FLAGS if getattr(options, key) is not None}
    flags |= {key: ",".join(flags[key]) for key in _REPEATED & flags.keys()}
    for setting in options.settings:
        key, equals, value = setting.partition("=")
        if not equals:
            options.parser.error(f"argument --set: {setting!r} is not KEY=VALUE")
        if key in flags:
            options.parser.error(f"argument --set: {key} is given twice")
        flags[key] = value
    return flags


def _check(options: argparse.Namespace) -> int:
    read = _load(options)
    if read is None:
        return 2
    _, loaded = read
    print("configuration is valid")
    for line in _summary(loaded.config):
        print(line)
    for warning in loaded.warnings:
        print(f"warning: {warning}")
    return 0


def _routes(options: argparse.Namespace) -> int:
    read = _load(options)
    if read is None:
        return 2
    from proxy.routes import as_json, as_text
    from proxy.rules.decide import Tables

    config = read[1].config
    sys.stdout.write((as_json if options.json else as_text)(config, Tables.of(config)))
    return 0


def _summary(config: Config) -> list[str]:
    """What an operator wants to see confirmed."""
    from proxy.config.schema import configured_listeners
    from proxy.workers import worker_count

    trust = config.trust
    trusted = [str(network) for network in trust.proxies]
    trusted += ["everybody"] * trust.all + ["Unix sockets"] * trust.unix
    trusted += [f"{trust.hops} hops"] * (trust.hops > 0)
    lines = [f"listen: {', '.join(map(_entrance, configured_listeners(config)))}"]
    lines += [f"upstream {name}: {upstream.url}" for name, upstream in config.upstreams.items()]
    lines += [
        f"route {route.path}: {route.upstream or 'default'}"
        + (f", without {route.strip}" if route.strip else "")
        for route in config.routes
    ]
    if config.aliases.prefix:
        lines.append(
            f"alias {config.aliases.prefix}/*: {'every' if config.aliases.app else 'every public'} path"
        )
    lines += [f"alias {alias.path}: {alias.target}" for alias in config.aliases.paths]
    if config.spool.directory:
        lines.append(f"spool: {config.spool.directory} ({config.spool.mode.value})")
    lines += [f"trusted proxies: {', '.join(trusted) or 'nobody'}"]
    lines += [f"front {_front(front)}" for front in config.fronts]
    lines += [f"admin: {config.admin.listen}"] if config.admin.listen is not None else []
    lines += [f"allowed hosts: {', '.join(config.access.allowed_hosts)}", f"workers: {worker_count(config)}"]
    return lines


def _front(front: FrontConfig) -> str:
    """A front's networks and what it does besides appending to the chain."""
    first, *more = map(str, front.networks)
    name = f"{first} and {len(more)} more networks" if more else first
    if front.proxy_protocol:
        return f"{name}: speaks the PROXY protocol"
    says = (
        f"names the client in {front.client_header}" if front.client_header else "appends to X-Forwarded-For"
    )
    return f"{name}: {says}" + (", then its own address" if front.own_address else "")


def _entrance(listener: ListenerConfig) -> str:
    """A listener's address with all that is spoken there besides HTTP."""
    words = [word for word, said in (("TLS", listener.tls), ("PROXY", listener.proxy_protocol)) if said]
    if listener.mode.value == "tcp":
        words.append(f"tcp to {listener.upstream or 'default'}")
    return f"{listener.address} ({', '.join(words)})" if words else str(listener.address)


def _run(options: argparse.Namespace) -> int:
    read = _load(options)
    if read is None:
        return 2
    sources, loaded = read
    if loaded.config.log.errors != "stderr":  # the error log says them too
        for warning in loaded.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    from proxy.notify import Notifier, inherited_sockets
    from proxy.workers import worker_count

    notifier, given = Notifier.from_environment(os.environ), inherited_sockets(os.environ)
    if worker_count(loaded.config) > 1:
        return _supervise(sources, loaded, notifier, given)
    from proxy.service import serve

    def reload() -> Loaded:
        return sources.fetch().load(os.environ)

    return run_until_stopped(
        serve(loaded.config, loaded.warnings, reload=reload, notifier=notifier, given=given)
    )


def _supervise(sources: Sources, loaded: Loaded, notifier: Notifier, given: Collection[socket.socket]) -> int:
    from proxy.workers.parent import Supervisor

    supervisor = Supervisor(sources, loaded, os.environ, notifier=notifier, given=given)
    return _exit_status(supervisor.run)


def run_until_stopped(serving: Coroutine[Any, Any, int]) -> int:
    """Run ``serving`` in a new event loop, uvloop's where it is installed; return its exit status.

    What the system refuses is one line on standard error and status 1.
    """
    import asyncio

    def run() -> int:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(serving)

    return _exit_status(run)


def _exit_status(run: Callable[[], int]) -> int:
    """Run; what the system refuses is a line on standard error and status 1."""
    from proxy.errors import described

    try:
        return run()
    except OSError as error:
        print(f"error: {described(error)}", file=sys.stderr)
        return 1


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's event loops, or ``None`` where only asyncio's own are there."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
