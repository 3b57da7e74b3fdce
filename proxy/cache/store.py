"""Answers by what was asked, in memory; when it is full, what was not asked for longest goes first.

A resource is one URL at one upstream (``caching.Key``). Its answers stand side by side by the values of the
headers that they vary by. When an answer names a header that the others were not told apart by, those are
dropped: nobody noted what they were asked with.

Memory: `cache.max_bytes` of bodies, heads and keys, with ``OVERHEAD`` for each answer, and with the bodies
that are still arriving; and ``PASSED`` keys whose answers cannot be kept, 1 KiB of target each at most.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from proxy.rules.caching import BASE_NAMES, PASS_SECONDS, age_of, answer_from, values_of
from proxy.rules.forwarding import response_fields
from proxy.wire.heads import render_response

if TYPE_CHECKING:
    from proxy.config.schema import CacheConfig
    from proxy.rules.caching import Asking, Kept, Key, Values
    from proxy.rules.forwarding import ForwardingTable

OVERHEAD = 1024
"""Bytes that an answer is reckoned to take beside what is in it."""

MOST_NAMES = 16
"""Headers that a resource's answers are told apart by; then only those of the last answer count."""

PASSED = 1024
"""Keys remembered whose answers cannot be kept; all are forgotten when there are more."""


class Variant:
    """One answer that is kept; ``head`` gives it as bytes."""

    __slots__ = ("_rendered", "cost", "kept", "key", "values")

    def __init__(self, key: Key, values: Values, kept: Kept) -> None:
        self.key = key
        self.values = values
        self.kept = kept
        lines = sum(len(name) + len(value) for name, value in kept.head.fields)
        self.cost = OVERHEAD + len(kept.body) + 2 * lines + sum(map(len, values)) + len(key[2])
        self._rendered: dict[tuple[bytes, int, bool, bool, bytes], tuple[int, bytes]] = {}

    def __repr__(self) -> str:
        return f"<Variant {self.key[2]!r} {self.values!r} {len(self.kept.body)} bytes>"

    def head(
        self,
        method: bytes,
        minor: int,
        now: float,
        table: ForwardingTable,
        *,
        close: bool,
        not_modified: bool,
        hsts: bytes = b"",
    ) -> bytes:
        """Return the head of an answer with this in it, rendered once a second at most for requests that are
        alike. ``minor``: the client's version; ``close``: its connection ends afterwards; ``hsts`` as in
        ``response_fields``."""
        alike = (method, minor, close, not_modified, hsts)
        age = age_of(self.kept, now)
        found = self._rendered.get(alike)
        if found is not None and found[0] == age:
            return found[1]
        answer = answer_from(self.kept, now, not_modified=not_modified)
        fields = response_fields(
            answer, method=method, minor=minor, close=close, date=b"", table=table, hsts=hsts
        )
        rendered = render_response(answer.status, answer.reason, fields)
        self._rendered[alike] = age, rendered
        return rendered


class Resource:
    """The answers of one key: ``names`` are the headers that they are told apart by; ``variants`` stand in
    the order in which they were asked for."""

    __slots__ = ("names", "variants")

    def __init__(self) -> None:
        self.names: tuple[bytes, ...] = BASE_NAMES
        self.variants: dict[Values, Variant] = {}


class Store:
    """See the module. ``size``: bytes in use; ``evictions``: answers that had to make room."""

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        self._resources: dict[Key, Resource] = {}
        self._order: OrderedDict[Variant, None] = OrderedDict()
        self._passed: dict[Key, float] = {}
        self.size = 0
        self.evictions = 0

    def __repr__(self) -> str:
        return f"<Store {len(self._order)} answers of {len(self._resources)} resources, {self.size} bytes>"

    def __len__(self) -> int:
        return len(self._order)

    def values(self, asking: Asking) -> Values:
        """Return what tells this request's answer from the resource's others, as far as is known."""
        return values_of(asking.fields, self.names(asking.key))

    def names(self, key: Key) -> tuple[bytes, ...]:
        """Return the headers that a resource's answers are told apart by."""
        resource = self._resources.get(key)
        return BASE_NAMES if resource is None else resource.names

    def find(self, asking: Asking) -> Variant | None:
        """Return the answer to this request, fresh or not."""
        resource = self._resources.get(asking.key)
        if resource is None:
            return None
        values = values_of(asking.fields, resource.names)
        variant = resource.variants.pop(values, None)
        if variant is not None:
            resource.variants[values] = variant  # the last one now
            self._order.move_to_end(variant)
        return variant

    def put(self, asking: Asking, kept: Kept) -> Variant:
        """Keep an answer in the place of the one that there was; return it, kept or (too large) not."""
        resource = self._resources.get(asking.key) or Resource()
        names = tuple(dict.fromkeys((*resource.names, *kept.terms.names)))
        if len(names) > MOST_NAMES:
            names = kept.terms.names
        if names != resource.names:
            for variant in list(resource.variants.values()):
                self._remove(variant)
            resource.names = names
        variant = Variant(asking.key, values_of(asking.fields, names), kept)
        old = resource.variants.get(variant.values)
        if old is not None:
            self._remove(old)
        elif len(resource.variants) >= self._config.variants:
            self._evict(next(iter(resource.variants.values())))
        if not self.reserve(variant.cost):
            return variant
        self._resources[asking.key] = resource
        resource.variants[variant.values] = variant
        self._order[variant] = None
        self._passed.pop(asking.key, None)
        return variant

    def drop(self, variant: Variant) -> None:
        """Forget an answer; harmless if it is gone already."""
        if variant in self._order:
            self._remove(variant)

    # Bytes.

    def reserve(self, size: int) -> bool:
        """Make room for so many bytes and count them as used; false: there is not that much."""
        while self.size + size > self._config.max_bytes and self._order:
            self._evict(next(iter(self._order)))
        if self.size + size > self._config.max_bytes:
            return False
        self.size += size
        return True

    def give_back(self, size: int) -> None:
        """So many reserved bytes are not used any more."""
        self.size -= size

    def _evict(self, variant: Variant) -> None:
        self.evictions += 1
        self._remove(variant)

    def _remove(self, variant: Variant) -> None:
        del self._order[variant]
        self.size -= variant.cost
        resource = self._resources[variant.key]
        del resource.variants[variant.values]
        if not resource.variants:
            del self._resources[variant.key]

    # What cannot be kept.

    def passes(self, key: Key, now: float) -> bool:
        """Was the answer lately one that cannot be kept? Then nobody need wait for it, nor look here."""
        until = self._passed.get(key)
        if until is None:
            return False
        if until <= now:
            del self._passed[key]
            return False
        return True

    def let_pass(self, key: Key, now: float) -> None:
        """Remember that the answer could not be kept."""
        if len(self._passed) >= PASSED:
            self._passed.clear()
        self._passed[key] = now + PASS_SECONDS
