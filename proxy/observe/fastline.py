"""Access-log lines of requests that are alike, put together from parts that were encoded once.

A line is byte for byte what ``log.encode_json`` writes, but for the form of its numbers.
"""

from __future__ import annotations

from typing import NamedTuple

from proxy.observe.log import AccessRecord, encode_json, json_text


class LineParts(NamedTuple):
    """What stands in a record's JSON line before each of these values, and behind the last ones (``end``);
    between ``bytes_out`` and ``end`` come the times, ``retries`` and ``reused``. ``client``: what
    ``client_part`` returns."""

    request_id: str
    client: str
    upstream_addr: str
    status: str
    upstream_status: str
    bytes_in: str
    bytes_out: str
    end: str


def line_parts(record: AccessRecord) -> LineParts:
    """Cut the record's JSON line where requests that are alike differ."""
    rest = encode_json(record).decode("ascii").partition(',"request_id":"')[2]
    before, _, rest = rest.partition('"client_ip":')
    parts = [',"request_id":"', before]
    rest = ',"method"' + rest.partition(',"method"')[2]
    for name in LineParts._fields[2:-1]:
        # A quote inside a value is escaped, so this is found as a key only. Each of these values is a number
        # or, in the record of a line that is to be cut, an empty text.
        before, key, rest = rest.partition(f'"{name}":')
        rest = rest.removeprefix('""').lstrip("0123456789")
        parts.append(before + key)
    parts.append(',"tls_version"' + rest.partition(',"tls_version"')[2])
    return LineParts(*parts)


def client_part(record: AccessRecord) -> str:
    """Return the pairs of a JSON line that tell who the client is."""
    return (
        f'"client_ip":{json_text(record.client_ip)},"peer":{json_text(record.peer)},'
        f'"client_ip_source":{json_text(record.client_ip_source)},"trusted_hops":{record.trusted_hops}'
    )


def fast_line(
    parts: LineParts,
    *,
    ts: float,
    request_id: str,
    client: str,
    upstream_addr: str,
    status: int,
    bytes_in: int,
    bytes_out: int,
    times: str,
    retries: int,
    reused: bool,
) -> bytes:
    """Return the line with its values put in. ``ts``: at least a second after the epoch; ``times``: t_head to
    t_total, as JSON pairs."""
    micros = str(int(ts * 1e6))
    return (
        f'{{"ts":{micros[:-6]}.{micros[-6:]}{parts.request_id}{request_id}{parts.client}{client}'
        f'{parts.upstream_addr}"{upstream_addr}"'
        f"{parts.status}{status}{parts.upstream_status}{status}{parts.bytes_in}{bytes_in}{parts.bytes_out}{bytes_out}"
        f',{times},"retries":{retries},"reused":{"true" if reused else "false"}{parts.end}'
    ).encode("ascii")
