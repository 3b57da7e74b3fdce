"""Lines put together from parts: what they say is what the whole record says."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.fastline import client_part, client_tail, fast_line, line_parts, sender_part
from proxy.observe.log import AccessRecord, encode_json

TRICKY = st.binary(max_size=60) | st.sampled_from([b'"ts":5', b',"status":7,', b'x"client_ip":"y', b"{%d}"])


@given(TRICKY, TRICKY, TRICKY, st.integers(0, 2**40), st.floats(1e9, 4e9), st.booleans())
def test_the_parts_make_the_line_of_the_whole_record(
    host: bytes, target: bytes, agent: bytes, size: int, ts: float, reused: bool
) -> None:
    common = AccessRecord(
        listener='odd "listener"',
        method=b"POST",
        host=host,
        target=b"/" + target,
        route="/e",
        cls="ingest_v0",
        upstream="default",
        upstream_addr="10.0.0.9:80",
        status=200,
        upstream_status=200,
        origin="upstream",
        retries=1,
        reused=reused,
    )
    whole = replace(
        common,
        ts=ts,
        request_id="0b0d",
        client_ip="2001:db8::1",
        peer="10.0.0.1",
        client_ip_source="x_forwarded_for",
        trusted_hops=2,
        bytes_in=size,
        bytes_out=7,
        user_agent=agent,
    )
    line = fast_line(
        line_parts(common),
        ts,
        "0b0d",
        client_part("2001:db8::1", client_tail("10.0.0.1", "x_forwarded_for"), 2),
        size,
        7,
        '"t_head":null,"t_body":null,"t_queue":null,"t_connect":null,"t_first_byte":null,"t_total":null',
        sender_part(AccessRecord(target=common.target, user_agent=agent)),
    )
    assert line.endswith(b"}\n")
    said, expected = json.loads(line), json.loads(encode_json(whole))
    assert abs(said.pop("ts") - expected.pop("ts")) < 2e-6
    assert list(said.items()) == list(expected.items())
