"""The token buckets of clients against buckets that are counted by hand, in exact numbers."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.rules.limits import ClientRates

cases = settings(max_examples=500, deadline=None)

steps = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 4096)), min_size=1, max_size=60
)
"""Who asks, and how many 1/1024 s after the one before."""

rates = st.sampled_from([Fraction(1, 4), Fraction(1), Fraction(8), Fraction(64)])
"""Powers of two, so that the floats are exact too."""


class Bucket:
    """Tokens that trickle in, counted one request after the other."""

    def __init__(self, rate: Fraction, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self.tokens = Fraction(burst)
        self.since = Fraction(0)

    def wait(self, now: Fraction) -> Fraction:
        self.tokens = min(Fraction(self.burst), self.tokens + (now - self.since) * self.rate)
        self.since = now
        if self.tokens < 1:
            return (1 - self.tokens) / self.rate
        self.tokens -= 1
        return Fraction(0)


@cases
@given(steps, rates, st.integers(1, 20), st.integers(0, 1_000_000))
def test_it_is_a_token_bucket(asked: list[tuple[bytes, int]], rate: Fraction, burst: int, start: int) -> None:
    subject = ClientRates(float(rate), burst)
    buckets = {client: Bucket(rate, burst) for client in (b"a", b"b", b"c")}
    now = Fraction(start)
    for client, pause in asked:
        now += Fraction(pause, 1024)
        assert subject.wait(client, float(now)) == buckets[client].wait(now)


@cases
@given(steps, st.integers(1, 5), st.integers(1, 3))
def test_a_client_that_others_drove_out_is_a_new_one_and_the_table_stays_small(
    asked: list[tuple[bytes, int]], burst: int, clients: int
) -> None:
    subject = ClientRates(1.0, burst, clients=clients)
    kept: list[bytes] = []  # the longest away first
    buckets: dict[bytes, Bucket] = {}
    now = Fraction(0)
    for client, pause in asked:
        now += Fraction(pause, 1024)
        if client not in kept:
            buckets[client] = Bucket(Fraction(1), burst)
            buckets[client].since = now
        kept = [*(other for other in kept if other != client), client][-clients:]
        assert subject.wait(client, float(now)) == buckets[client].wait(now)
        assert repr(subject) == f"<ClientRates clients={len(kept)}>"
