"""What the spool is given is the same on both paths, and so are the answers, the log and the counters; and
whoever was told "Ok" by the proxy has his request kept, as PostHog would have been sent it."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from proxy.spool.record import SpoolFailed, SpoolFull
from tests.property.test_fastpath import (
    EVENT,
    SICK,
    TURNS,
    UPLOAD,
    USUAL,
    Seen,
    configurations,
    conversations,
    scripts,
    watch,
)
from tests.support.keeping import Kept
from tests.support.scripted import without_ports

modes = st.sampled_from(["first", "first", "fallback"])
troubles = st.sampled_from([None, None, None, SpoolFull("bytes"), SpoolFailed("no")])


def run(
    conversation: tuple[bytes, list[int]],
    script: list[Any],
    config: dict[str, Any],
    mode: str,
    trouble: SpoolFull | SpoolFailed | None,
    *,
    fast: bool,
) -> tuple[Seen, list[Any]]:
    kept = Kept(refuses=trouble)
    spool = {"directory": "/nowhere", "mode": mode}
    seen = asyncio.run(watch(*conversation, script, {**config, "spool": spool}, fast=fast, keeper=kept))
    records = [
        (record.upstream, record.route, record.client, without_ports(record.head), record.length, body)
        for record, body in kept.records
    ]
    spooled = seen.counters["posthog_proxy_spool_kept_total"]
    assert sum(spooled.values()) == len(records)
    return seen, records


CHUNKED = (
    b"POST /e/ HTTP/1.1\r\nHost: ph.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n2\r\n!!\r\n0\r\n\r\n"
)
PREFLIGHT = (
    b"OPTIONS /e/ HTTP/1.1\r\nHost: ph.example\r\nOrigin: https://a\r\n"
    b"Access-Control-Request-Method: POST\r\n\r\n"
)


@settings(max_examples=400, deadline=None)
@given(conversations(), scripts, configurations, modes, troubles)
@example((EVENT * 3, TURNS), [USUAL], {"host": "keep"}, "first", None)
@example((EVENT * 3, TURNS), [SICK, USUAL], {"host": "keep"}, "fallback", None)
@example((EVENT * 3, TURNS), [(USUAL[:9], b"")], {"host": "keep"}, "fallback", None)
@example((EVENT * 2, []), [USUAL], {"host": "keep"}, "first", SpoolFull("bytes"))
@example((EVENT, []), [SICK], {"host": "keep"}, "fallback", SpoolFailed("no"))
@example((UPLOAD, [5000, 50_000]), [USUAL], {"host": "keep"}, "first", None)
@example((UPLOAD, [5000, 50_000]), [SICK], {"host": "keep"}, "fallback", None)
@example((CHUNKED, [80]), [SICK], {"host": "keep"}, "fallback", None)
@example((CHUNKED, [80]), [SICK], {"host": "keep"}, "first", None)
@example((PREFLIGHT, []), [USUAL], {"host": "keep"}, "first", None)
def test_both_paths_keep_the_same(
    conversation: tuple[bytes, list[int]],
    script: list[Any],
    config: dict[str, Any],
    mode: str,
    trouble: SpoolFull | SpoolFailed | None,
) -> None:
    general, kept_by_general = run(conversation, script, config, mode, trouble, fast=False)
    fast, kept_by_fast = run(conversation, script, config, mode, trouble, fast=True)
    event(f"kept {len(kept_by_fast)}, fast {fast.fast}")
    assert kept_by_fast == kept_by_general
    assert fast.up == general.up
    assert fast.down == general.down
    assert fast.log == general.log
    assert fast.counters == general.counters
    if not config.get("log"):  # every request has a line
        assert fast.log.count('"origin": "spool"') == len(kept_by_fast)


def test_what_is_kept_is_what_would_have_been_sent() -> None:
    for raw in (EVENT, CHUNKED, UPLOAD):
        sent, _ = run((raw, []), [USUAL], {"host": "keep"}, "fallback", None, fast=True)
        _, [(_, _, _, head, length, body)] = run(
            (raw, []), [USUAL], {"host": "keep"}, "first", None, fast=True
        )
        [up] = sent.up
        assert length == len(body)
        if raw is CHUNKED:
            assert body == b"hello!!"
            assert (
                head
                == up.partition(b"\r\n\r\n")[0].replace(b"Transfer-Encoding: chunked", b"Content-Length: 7")
                + b"\r\n\r\n"
            )
        else:
            assert head + body == up
