"""Access-log lines of requests that are alike, put together from parts that were encoded once.

A line is byte for byte what ``log.encode_json`` writes, but for the form of its numbers.
"""

from __future__ import annotations

from typing import NamedTuple

from proxy.observe.log import AccessRecord, encode_json, json_text


class LineParts(NamedTuple):
    """What stands in a record's JSON line before each of these values, and behind the sender (``end``);
    ``client``: what ``client_part`` returns, ``sender``: what ``sender_part`` does."""

    request_id: str
    client: str
    bytes_in: str
    bytes_out: str
    times: str
    sender: str
    end: str


def line_parts(record: AccessRecord) -> LineParts:
    """Cut the record's JSON line where requests that are alike differ."""
    rest = encode_json(record).decode("ascii").partition(',"request_id":"')[2]
    # A quote inside a value is escaped, so these are found as keys only.
    before, _, rest = rest.partition('"client_ip":')
    alike, _, rest = rest.partition(',"method"')[2].partition(',"bytes_in":')
    ending = rest.partition(',"retries"')[2]
    before_sender, _, rest = ending.partition(',"user_agent":')
    end = rest.partition(',"termination":')[2]
    return LineParts(
        ',"request_id":"',
        before,
        f',"method"{alike},"bytes_in":',
        ',"bytes_out":',
        ",",
        f',"retries"{before_sender},"user_agent":',
        f',"termination":{end}',
    )


def sender_part(record: AccessRecord) -> str:
    """Return what the record's JSON line says of the program that sent the request."""
    line = encode_json(record).decode("ascii")
    return line.partition(',"user_agent":')[2].partition(',"termination":')[0]


def client_tail(peer: str, source: str) -> str:
    """Return what ``client_part`` says of all clients that came the same way."""
    return f',"peer":{json_text(peer)},"client_ip_source":{json_text(source)},"trusted_hops":'


def client_part(client_ip: str, tail: str, trusted_hops: int) -> str:
    """Return the pairs of a JSON line that tell who the client is; an address has nothing to be escaped."""
    return f'"client_ip":"{client_ip}"{tail}{trusted_hops}'


def fast_line(
    parts: LineParts,
    ts: float,
    request_id: str,
    client: str,
    bytes_in: int,
    bytes_out: int,
    times: str,
    sender: str,
) -> bytes:
    """Return the line with its values put in. ``times``: t_head to t_total, as JSON pairs."""
    before_id, before_client, before_in, before_out, before_times, before_sender, end = parts
    return (
        f'{{"ts":{ts:.6f}{before_id}{request_id}{before_client}{client}{before_in}{bytes_in}'
        f"{before_out}{bytes_out}{before_times}{times}{before_sender}{sender}{end}"
    ).encode("ascii")
