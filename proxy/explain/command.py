"""The command line of `explain`: what is asked, from whom, and at which listener."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.config.schema import ListenerMode, configured_listeners
from proxy.explain.asking import AskingError, Question, from_curl, from_head, from_log
from proxy.explain.telling import as_json, as_text
from proxy.explain.trail import explain, peer_at
from proxy.message import Preface
from proxy.rules.address import parse_address
from proxy.server import Proxy

if TYPE_CHECKING:
    import argparse

    from proxy.config.load import Loaded
    from proxy.config.schema import Config, ListenerConfig
    from proxy.message import IPAddress, Peer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all that only `explain` knows."""
    parser.add_argument("file", nargs="?", default="-", help="file with the request head; -: standard input")
    parser.add_argument("--curl", metavar="COMMAND", help="a curl command instead, as a browser copies it")
    parser.add_argument("--log-line", metavar="JSON", help="a line of the access log instead")
    parser.add_argument("--peer", metavar="ADDR", help="who connects: an address, or unix (127.0.0.1)")
    parser.add_argument("--preface", metavar="ADDR", help="the client that a PROXY protocol header names")
    parser.add_argument("--client-certificate", metavar="SUBJECT", help="of the certificate it shows")
    parser.add_argument(
        "--listener", metavar="ADDR", help="which one it comes in at (the first that fits the URL)"
    )
    parser.add_argument("--exact", action="store_true", help="the file's bytes are meant as they are")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace, loaded: Loaded) -> int:
    """Print the explanation; 0, or 2 where the question cannot be read."""
    config = loaded.config
    try:
        question = _question(options)
        listener = _listener(config, options.listener, question.tls)
        peer = _peer(options, listener, question)
    except (AskingError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    told = explain(question.raw, peer, Proxy(config).runtime, listener)
    sys.stdout.write((as_json if options.json else as_text)(told, question.left_out))
    return 0


def _question(options: argparse.Namespace) -> Question:
    if options.curl is not None:
        return from_curl(options.curl)
    if options.log_line is not None:
        return from_log(options.log_line)
    data = sys.stdin.buffer.read() if options.file == "-" else Path(options.file).read_bytes()
    if not data.strip():
        raise AskingError("there is no request: give a file, standard input, --curl or --log-line")
    return from_head(data, exact=options.exact)


def _listener(config: Config, wanted: str | None, tls: bool | None) -> ListenerConfig:
    """The one that is named; else the first HTTP listener, with TLS where https was asked for."""
    listeners = configured_listeners(config)
    if wanted is not None:
        for listener in listeners:
            if str(listener.address) == wanted:
                return listener
        known = ", ".join(str(listener.address) for listener in listeners)
        raise AskingError(f"--listener {wanted}: no such listener; there are: {known}")
    fitting = [one for one in listeners if one.mode is ListenerMode.HTTP and one.tls is bool(tls)]
    return (fitting or [one for one in listeners if one.mode is ListenerMode.HTTP] or list(listeners))[0]


def _peer(options: argparse.Namespace, listener: ListenerConfig, question: Question) -> Peer:
    said = options.peer or question.peer or "127.0.0.1"
    ip = None if said == "unix" else _address("--peer", said)
    peer = peer_at(listener, ip, tls=listener.tls, certificate=options.client_certificate)
    if options.preface is None:
        return peer
    return replace(peer, preface=Preface(_address("--preface", options.preface), 0))


def _address(flag: str, text: str) -> IPAddress:
    ip = parse_address(text.encode())
    if ip is None:
        raise AskingError(f"{flag} {text}: must be an IPv4 or IPv6 address")
    return ip
