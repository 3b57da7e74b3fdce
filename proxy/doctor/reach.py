"""Can an upstream be reached: its name, every address of it, TLS with the name that is asked for."""

from __future__ import annotations

import asyncio
import email.utils
import socket
import ssl
from typing import TYPE_CHECKING

from proxy.config.schema import UnixAddress
from proxy.doctor.asking import ProbeError, Where, connect, described
from proxy.doctor.findings import Finding, error, ok, warning
from proxy.net.tls import client_context, server_name
from proxy.wire.proxyproto import LOCAL

if TYPE_CHECKING:
    from proxy.config.schema import UpstreamConfig

SOON = 14 * 86400
"""Seconds before its end from which a certificate is warned about."""


async def reach(
    name: str, upstream: UpstreamConfig, wall: float, *, timeout: float
) -> tuple[Where | None, list[Finding]]:
    """Look for an address that can be talked to; ``None``: there is none. ``wall``: seconds of the epoch."""
    tls = client_context(upstream, name) if upstream.url.tls else None
    opening = LOCAL if upstream.proxy_protocol else b""
    address = upstream.url.address
    if isinstance(address, UnixAddress):
        places = [Where(address.path, tls, server_name(upstream), opening)]
    else:
        try:
            numbers = await _resolved(address.host, address.port, timeout)
        except (OSError, ProbeError) as problem:
            text = f"{address.host} has no address: {described(problem)}"
            cure = f"correct upstreams.{name}.url, or the resolver of this machine (/etc/resolv.conf)"
            return None, [error("dns", name, text, cure)]
        places = [Where((number, address.port), tls, server_name(upstream), opening) for number in numbers]
    verdicts = [await _attempt(name, place, wall, timeout) for place in places]
    good = [place for place, (well, _) in zip(places, verdicts, strict=True) if well]
    findings = [finding for _, found in verdicts for finding in found]
    if good and len(good) < len(places):
        findings = [_lessened(finding) for finding in findings]
    return (good[0] if good else None), findings


async def _resolved(host: str, port: int, timeout: float) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise ProbeError(f"the resolver has not answered within {timeout:g} s") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _lessened(finding: Finding) -> Finding:
    """One address of several: the proxy tries the next one, which costs time."""
    if not finding.cure:
        return finding
    return warning(finding.code, finding.subject, f"{finding.text} (others work)", finding.cure)


async def _attempt(name: str, where: Where, wall: float, timeout: float) -> tuple[bool, list[Finding]]:
    try:
        async with asyncio.timeout(timeout):
            _, writer = await connect(where)
    except TimeoutError:
        text = f"{where} does not let connect within {timeout:g} s"
        return False, [error("connect", name, text, "open the firewall between here and there")]
    except ssl.SSLError as problem:
        return False, [_tls_failure(name, where, problem)]
    except OSError as problem:
        cure = f"start what listens there, or correct upstreams.{name}.url"
        return False, [error("connect", name, f"{where}: {described(problem)}", cure)]
    try:
        certificate = writer.get_extra_info("peercert")
    finally:
        writer.transport.abort()
    findings = [ok("connect", name, f"{where} lets connect{' with TLS' * (where.tls is not None)}")]
    if certificate:
        findings += ending(name, where, str(certificate["notAfter"]), wall)
    return True, findings


def _tls_failure(name: str, where: Where, problem: ssl.SSLError) -> Finding:
    text = f"{where}, asked for as {where.server_name}: {described(problem)}"
    if not isinstance(problem, ssl.SSLCertVerificationError):
        return error("tls", name, text, f"if it speaks no TLS there, write http:// in upstreams.{name}.url")
    code = problem.verify_code
    if code == _EXPIRED:
        cure = "renew the certificate of the upstream"
    elif code in (_WRONG_NAME, _WRONG_IP):
        cure = f"set upstreams.{name}.server_name to a name that is in the certificate"
    else:
        cure = (
            f"give the authority that signed it in upstreams.{name}.ca_file, or have the upstream send its "
            "intermediate certificates"
        )
    return error("tls", name, text, cure)


# OpenSSL, x509_vfy.h.
_EXPIRED = 10
_WRONG_NAME = 62
_WRONG_IP = 64


def ending(name: str, where: Where, not_after: str, wall: float) -> list[Finding]:
    """Judge the end of a certificate, given as OpenSSL writes it."""
    left = ssl.cert_time_to_seconds(not_after) - wall
    text = f"the certificate of {where} is good until {email.utils.formatdate(wall + left, usegmt=True)}"
    if left < SOON:
        return [warning("certificate", name, text, "renew it, and see why nobody has yet")]
    return [ok("certificate", name, text)]
