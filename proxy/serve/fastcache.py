"""The asset cache on the fast path: what is fresh is answered in callbacks, the rest is the general path's.

What a header block asks the cache is read once for each target (``rules/caching.asking``, by both paths),
kept with the block, and looked up in the same store. A property test holds both paths against each other.

Memory: ``TARGETS`` readings for each header block that is kept, a line for each sort of request in the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.rules.caching import PREFIXES, asking, has_condition, is_fresh, not_modified
from proxy.rules.forwarded import OWS

if TYPE_CHECKING:
    from proxy.cache.store import Variant
    from proxy.message import Fields, Route
    from proxy.rules.caching import Asking
    from proxy.serve.cached import AssetCache
    from proxy.serve.fastpath import Shape
    from proxy.serve.runtime import Runtime

TARGETS: Final = 16
"""Targets for which a header block's question is kept."""


_BEFORE_HOST = len(b" HTTP/1.1\r\nHost: ")


class Question:
    """What a header block asks under one target. ``conditional``: the client may have the answer already."""

    __slots__ = ("asked", "conditional")

    def __init__(self, asked: Asking) -> None:
        self.asked = asked
        self.conditional = has_condition(asked.fields)


class Found:
    """A fresh answer: its head's status and the body to send, which a 304 has not."""

    __slots__ = ("body", "status", "variant")

    def __init__(self, variant: Variant, status: int) -> None:
        self.variant = variant
        self.status = status
        self.body = variant.kept.body if status == 200 else b""


class FastCache:
    """What the fast path knows of the asset cache of its process."""

    def __init__(self, runtime: Runtime, cache: AssetCache) -> None:
        self._runtime = runtime
        self._cache = cache
        self._table = runtime.tables.forwarding
        self._longest = runtime.config.limits.write_buffer
        """Bytes of a body that may be queued at once; a longer one is written in pieces, by a coroutine."""

    def look(self, shape: Shape, route: Route, target: bytes, head: bytes, now: float) -> Found | bool:
        """Return a fresh answer; true: the general path must ask; false: the cache has nothing to do with it.

        ``head``: the request's head, from which the lines are read if they were not before.
        """
        if not target.startswith(PREFIXES):
            return False
        questions = shape.questions
        if questions is None:
            questions = shape.questions = {}
        if target in questions:
            question = questions[target]
        else:
            question = _question(shape, route, target, head)
            if len(questions) >= TARGETS:
                questions.clear()
            questions[target] = question
        if question is None:
            return False
        store, asked = self._cache.store, question.asked
        variant = store.find(asked)
        if variant is not None and not asked.insists and is_fresh(variant.kept, now):
            if len(variant.kept.body) > self._longest:
                return True
            if question.conditional and not_modified(asked.fields, variant.kept.head.fields):
                return Found(variant, 304)
            return Found(variant, 200)
        return not store.passes(asked.key, now)

    def head(self, found: Found, minor: int, now: float, *, close: bool, hsts: bytes) -> bytes:
        """Return the head of the answer."""
        unchanged = found.status == 304
        return found.variant.head(
            b"GET", minor, now, self._table, close=close, not_modified=unchanged, hsts=hsts
        )


def _question(shape: Shape, route: Route, target: bytes, head: bytes) -> Question | None:
    host = shape.way.opening[_BEFORE_HOST:-2]
    asked = asking(b"GET", target, route.upstream, host, head_fields(head))
    return None if asked is None else Question(asked)


def head_fields(head: bytes) -> Fields:
    """Return the lines of a head that has been judged already (wire/fasthead)."""
    lines = head[:-4].split(b"\r\n")[1:]
    return tuple((name, value.strip(OWS)) for name, _, value in (line.partition(b":") for line in lines))
