"""The command line of `doctor`: what is to be asked, in which order, and what is printed."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from proxy.errors import Violation

if TYPE_CHECKING:
    import argparse

    from proxy.config.load import Loaded
    from proxy.doctor.asking import Where
    from proxy.doctor.findings import Finding

TIMEOUT = 5.0
"""Seconds that a question may take, unless said otherwise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all that only `doctor` knows."""
    parser.add_argument("--host", metavar="NAME", help="the Host that clients ask for")
    parser.add_argument("--origin", metavar="ORIGIN", help="a page that sends events: https://shop.example")
    parser.add_argument(
        "--through", metavar="URL", help="the public name: bodies of 2 and 20 MB are sent to it"
    )
    parser.add_argument(
        "--through-ca", metavar="FILE", default="", help="its authority, if it is a private one"
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT, metavar="SECONDS", help="of each question")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace, loaded: Loaded) -> int:
    """Print the findings; 0: nothing to do, 1: warnings, 2: errors."""
    from proxy.doctor.findings import as_json, as_text, exit_status

    if not 0 < options.timeout <= 600:
        options.parser.error("argument --timeout: must be above 0 and not above 600")
    try:
        findings = asyncio.run(examine(options, loaded))
    except ValueError as error:
        sys.stderr.write(f"error: --through {error}\n")
        return 2
    except Violation as violation:
        sys.stderr.write(f"error: --host or --origin: {violation.detail}\n")
        return 2
    sys.stdout.write((as_json if options.json else as_text)(findings))
    return exit_status(findings)


async def examine(options: argparse.Namespace, loaded: Loaded) -> list[Finding]:
    """Look at the configuration, the machine, the upstreams, and what stands in front."""
    from proxy.clock import Clock
    from proxy.doctor import reach, services, smells, through

    config, wall = loaded.config, Clock().wall()
    findings = [*smells.configuration(config, loaded.warnings), *smells.machine(config)]
    places: dict[str, Where] = {}
    for name, upstream in config.upstreams.items():
        place, found = await reach.reach(name, upstream, wall, timeout=options.timeout)
        findings += found
        if place is not None:
            places[name] = place
    host = options.host or _host(loaded)
    clinic = services.Clinic(config, places, host, wall, timeout=options.timeout)
    findings += await clinic.findings(options.origin or "")
    if options.through:
        findings += await through.through(
            options.through,
            wall,
            origin=options.origin or "",
            ca_file=options.through_ca,
            timeout=options.timeout,
        )
    return findings


def _host(loaded: Loaded) -> str:
    """A name that clients ask for: the first that is allowed, else that of the upstream."""
    named = [name for name in loaded.config.access.allowed_hosts if name[:1] not in ("*", ".")]
    return named[0] if named else loaded.config.upstreams["default"].url.authority
