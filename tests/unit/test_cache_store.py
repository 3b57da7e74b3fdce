"""What is kept is found again by what it varies by, and the bytes stay within their bound."""

from __future__ import annotations

from proxy.cache.store import MOST_NAMES, OVERHEAD, PASSED, Store, Variant
from proxy.config.schema import CacheConfig, ForwardingConfig
from proxy.message import NO_BODY, Fields, ResponseHead
from proxy.rules.caching import PASS_SECONDS, Asking, Kept, Terms, asking
from proxy.rules.forwarding import ForwardingTable

TABLE = ForwardingTable.of(ForwardingConfig())


def asked(*fields: tuple[bytes, bytes], target: bytes = b"/static/array.js") -> Asking:
    question = asking(b"GET", target, "default", b"ph.example", fields)
    assert question is not None
    return question


def kept(body: bytes = b"hello", *names: bytes, lines: Fields = ()) -> Kept:
    terms = Terms(60.0, 0.0, 0.0, (b"accept-encoding", *names))
    return Kept(ResponseHead(200, b"OK", 1, lines, NO_BODY), body, terms, 0.0)


def found(store: Store, question: Asking) -> bytes | None:
    variant = store.find(question)
    return None if variant is None else variant.kept.body


GZIP, BROTLI = asked((b"Accept-Encoding", b"gzip")), asked((b"Accept-Encoding", b"br"))
A = asked((b"Origin", b"https://a"), (b"Referer", b"https://a/1"))
B = asked((b"Origin", b"https://b"), (b"Referer", b"https://a/1"))


def test_what_was_put_is_found_until_it_is_dropped() -> None:
    store = Store(CacheConfig())
    assert found(store, GZIP) is None
    variant = store.put(GZIP, kept())
    assert store.find(GZIP) is variant
    assert (len(store), store.size) == (1, variant.cost)
    store.drop(variant)
    store.drop(variant)
    assert (found(store, GZIP), len(store), store.size) == (None, 0, 0)
    assert repr(store) == "<Store 0 answers of 0 resources, 0 bytes>"


def test_encodings_are_apart_whatever_vary_says() -> None:
    store = Store(CacheConfig())
    store.put(GZIP, kept(b"zipped"))
    assert found(store, BROTLI) is None
    store.put(BROTLI, kept(b"br"))
    assert (found(store, GZIP), found(store, BROTLI)) == (b"zipped", b"br")


def test_a_new_answer_takes_the_place_of_the_old_one() -> None:
    store = Store(CacheConfig())
    store.put(GZIP, kept(b"old" * 100))
    variant = store.put(GZIP, kept(b"new"))
    assert (found(store, GZIP), store.size, store.evictions) == (b"new", variant.cost, 0)


def test_origins_are_apart_once_an_answer_varies_by_them() -> None:
    store = Store(CacheConfig())
    store.put(A, kept(b"for all"))
    assert found(store, B) == b"for all"
    store.put(A, kept(b"for a", b"origin", b"referer"))
    assert (found(store, A), found(store, B)) == (b"for a", None)
    store.put(B, kept(b"for b", b"origin", b"referer"))
    assert (found(store, A), found(store, B)) == (b"for a", b"for b")
    assert store.names(A.key) == (b"accept-encoding", b"origin", b"referer")
    assert store.values(A) == (b"\0", b"https://a", b"https://a/1")


def test_what_was_not_told_apart_is_dropped() -> None:
    store = Store(CacheConfig())
    store.put(GZIP, kept(b"for all"))
    store.put(BROTLI, kept(b"for some", b"referer"))
    assert found(store, GZIP) is None
    assert len(store) == 1


def test_names_do_not_pile_up() -> None:
    store = Store(CacheConfig())
    for number in range(MOST_NAMES):
        store.put(GZIP, kept(b"x", b"x-%d" % number))
    assert store.names(GZIP.key) == (b"accept-encoding", b"x-%d" % (MOST_NAMES - 1))


def test_the_number_of_variants_is_bounded_and_the_least_asked_for_goes() -> None:
    store = Store(CacheConfig(variants=2))
    store.put(GZIP, kept(b"1"))
    store.put(BROTLI, kept(b"2"))
    store.find(GZIP)
    store.put(asked(), kept(b"3"))
    assert (found(store, GZIP), found(store, BROTLI), store.evictions) == (b"1", None, 1)


def test_when_it_is_full_what_was_not_asked_for_longest_goes() -> None:
    store = Store(CacheConfig(max_bytes=3 * (OVERHEAD + 1100)))
    questions = [asked(target=b"/static/%d.js" % number) for number in range(4)]
    for question in questions[:3]:
        store.put(question, kept(b"x" * 1000))
    store.find(questions[0])
    store.put(questions[3], kept(b"x" * 1000))
    assert [found(store, question) is not None for question in questions] == [True, False, True, True]
    assert store.evictions == 1


def test_what_does_not_fit_at_all_is_not_kept() -> None:
    store = Store(CacheConfig(max_bytes=65_536))
    assert store.put(GZIP, kept(b"x" * 65_536)).kept.body == b"x" * 65_536
    assert (found(store, GZIP), store.size) == (None, 0)


def test_what_is_arriving_counts() -> None:
    store = Store(CacheConfig(max_bytes=65_536))
    store.put(GZIP, kept())
    assert store.reserve(65_536)
    assert (len(store), store.size) == (0, 65_536)
    assert not store.reserve(1)
    store.give_back(65_536)
    assert store.size == 0


def test_what_cannot_be_kept_is_remembered_for_a_while() -> None:
    store = Store(CacheConfig())
    store.let_pass(GZIP.key, 10.0)
    assert store.passes(GZIP.key, 10.0 + PASS_SECONDS - 0.1)
    assert not store.passes(GZIP.key, 10.0 + PASS_SECONDS)
    assert not store.passes(GZIP.key, 10.0)
    store.let_pass(GZIP.key, 10.0)
    store.put(GZIP, kept())
    assert not store.passes(GZIP.key, 10.0)


def test_that_memory_is_bounded() -> None:
    store = Store(CacheConfig())
    for number in range(PASSED + 1):
        store.let_pass(asked(target=b"/static/%d" % number).key, 0.0)
    assert not store.passes(asked(target=b"/static/0").key, 0.0)
    assert store.passes(asked(target=b"/static/%d" % PASSED).key, 0.0)


def test_a_head_is_rendered_once_a_second() -> None:
    variant = Variant(GZIP.key, (b"gzip",), kept(lines=((b"Date", b"D"),)))

    def head(now: float, *, close: bool = False, known: bool = False) -> bytes:
        return variant.head(b"GET", 1, now, TABLE, close=close, not_modified=known)

    first = head(5.0)
    assert first == b"HTTP/1.1 200 OK\r\nDate: D\r\nAge: 5\r\nContent-Length: 5\r\n\r\n"
    assert head(5.9) is first
    assert head(6.0) == first.replace(b"Age: 5", b"Age: 6")
    assert head(6.0, close=True).endswith(b"Connection: close\r\n\r\n")
    assert head(6.0, known=True) == b"HTTP/1.1 304 Not Modified\r\nDate: D\r\nAge: 6\r\n\r\n"
    assert variant.head(b"HEAD", 1, 6.0, TABLE, close=False, not_modified=False) == head(6.0)
    secure = variant.head(b"GET", 1, 6.0, TABLE, close=False, not_modified=False, hsts=b"max-age=9")
    assert b"\r\nStrict-Transport-Security: max-age=9\r\n" in secure
    assert head(6.0) == first.replace(b"Age: 5", b"Age: 6")
    assert repr(variant) == "<Variant b'/static/array.js' (b'gzip',) 5 bytes>"
