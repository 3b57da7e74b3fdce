"""Contexts of TLS listeners: which certificate is shown, what is spoken, and renewal while serving.

The handshakes are real, between two contexts in memory.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.load import config_from
from proxy.errors import ConfigError
from proxy.net.certificates import ServerTls
from proxy.observe.metrics import Counters
from tests.support.clock import HandClock
from tests.support.tls import self_signed, signed_by

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config.schema import Config
    from tests.support.tls import Certificate

pytestmark = pytest.mark.needs("openssl")


class RealTime(HandClock):
    """Its wall clock is near the dates of certificates that were made just now."""

    def __init__(self) -> None:
        super().__init__()
        from proxy.clock import Clock

        self._offset = Clock().wall() - self.now + 5

    def wall(self) -> float:
        return self._offset + self.now


class Tls:
    """A ``ServerTls``, its clock, counters and log."""

    def __init__(self, config: Config) -> None:
        self.clock = RealTime()
        self.counters = Counters()
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.server = ServerTls(
            config,
            self.clock,
            self.counters,
            lambda level, event, **fields: self.said.append((event, fields)),
        )

    def turn(self, seconds: float = 10.0) -> None:
        self.clock.now += seconds
        self.server.watch()


def configured(*certificates: Certificate, **tls: Any) -> Config:
    pairs = [{"certificate": str(made.certificate), "key": str(made.key)} for made in certificates]
    mapping = {"upstream": "http://web:1", "listen_tls": "127.0.0.1:0", "certificates": pairs, "tls": tls}
    return config_from(mapping).config


def client(**settings: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in settings.items():
        setattr(context, name, value)
    return context


def shake(
    tls: Tls, name: str | None = None, context: ssl.SSLContext | None = None, session: Any = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Shake hands in memory; both sides."""
    upwards, downwards = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = (context or client()).wrap_bio(downwards, upwards, server_hostname=name, session=session)
    showing = tls.server.context.wrap_bio(upwards, downwards, server_side=True)
    for side in (asking, showing, asking, showing, asking, showing):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    showing.write(b"x")
    assert asking.read(1) == b"x"  # with it comes the ticket
    return asking, showing


def certificate_of(made: Certificate) -> bytes:
    return ssl.PEM_cert_to_DER_cert(made.certificate.read_text())


def shown(tls: Tls, name: str | None = None) -> bytes | None:
    return shake(tls, name)[0].getpeercert(binary_form=True)


@pytest.fixture
def one(tmp_path: Path) -> Certificate:
    return self_signed(tmp_path, "a.test", "*.a.test", stem="one", days=90)


@pytest.fixture
def two(tmp_path: Path) -> Certificate:
    return self_signed(tmp_path, "b.a.test", stem="two", days=90, address=False)


class TestChoosing:
    def test_by_name(self, one: Certificate, two: Certificate) -> None:
        tls = Tls(configured(one, two))
        assert repr(tls.server) == "<ServerTls certificates=2>"
        for name in (None, "a.test", "x.a.test", "other.test"):
            assert shown(tls, name) == certificate_of(one)
        assert shown(tls, "B.a.test") == certificate_of(two)
        names = shake(tls, "b.a.test")[1].context
        assert getattr(names, "names", None) == ("b.a.test",)

    def test_strict(self, one: Certificate, two: Certificate) -> None:
        tls = Tls(configured(one, two, strict_sni=True))
        assert shown(tls, "x.a.test") == certificate_of(one)
        assert shown(tls) == certificate_of(one)
        with pytest.raises(ssl.SSLError):
            shake(tls, "other.test")


class TestSpoken:
    def test_versions(self, one: Certificate) -> None:
        tls = Tls(configured(one))
        assert shake(tls)[0].version() == "TLSv1.3"
        old = client(maximum_version=ssl.TLSVersion.TLSv1_2)
        assert shake(tls, context=old)[0].version() == "TLSv1.2"
        with pytest.raises(ssl.SSLError):
            shake(Tls(configured(one, minimum="1.3")), context=old)

    def test_suites_of_1_2(self, one: Certificate) -> None:
        weak = client(maximum_version=ssl.TLSVersion.TLSv1_2)
        weak.set_ciphers("ECDHE+AES+SHA384:ECDHE+AES+SHA1:AES128-GCM-SHA256")
        with pytest.raises(ssl.SSLError):
            shake(Tls(configured(one)), context=weak)

    @pytest.mark.parametrize(
        ("offered", "spoken"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None), (["acme-tls/1"], None)]
    )
    def test_alpn(self, one: Certificate, offered: list[str], spoken: str | None) -> None:
        context = client()
        context.set_alpn_protocols(offered)
        assert shake(Tls(configured(one)), context=context)[0].selected_alpn_protocol() == spoken

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_tickets_outlive_a_renewal(
        self, one: Certificate, tmp_path: Path, version: ssl.TLSVersion
    ) -> None:
        tls = Tls(configured(one))
        context = client(maximum_version=version)
        session = shake(tls, "a.test", context)[0].session
        assert shake(tls, "a.test", context, session)[0].session_reused
        one.overwrite(self_signed(tmp_path, "a.test", stem="new", days=90))
        tls.turn()
        assert shake(tls, "a.test", context, session)[0].session_reused

    def test_no_tickets(self, one: Certificate) -> None:
        asking, _ = shake(Tls(configured(one, tickets=0)))
        assert asking.session is None or not asking.session.has_ticket


class TestClientCertificates:
    @pytest.fixture
    def authority(self, tmp_path: Path) -> Certificate:
        return self_signed(tmp_path, "ca.test", stem="ca", days=90)

    def test_required(self, one: Certificate, authority: Certificate, tmp_path: Path) -> None:
        tls = Tls(configured(one, client_auth="required", client_ca=str(authority.certificate)))
        with pytest.raises(ssl.SSLError):
            shake(tls, "a.test")
        known = signed_by(authority, tmp_path, "/O=Example/CN=ann")
        context = client()
        context.load_cert_chain(known.certificate, known.key)
        _, showing = shake(tls, "a.test", context)
        subject = (showing.getpeercert() or {})["subject"]
        assert subject == ((("organizationName", "Example"),), (("commonName", "ann"),))

    def test_optional(self, one: Certificate, authority: Certificate, tmp_path: Path) -> None:
        tls = Tls(configured(one, client_auth="optional", client_ca=str(authority.certificate)))
        assert shake(tls, "a.test")[1].getpeercert() is None
        stranger = self_signed(tmp_path, "x.test", stem="stranger")
        context = client()
        context.load_cert_chain(stranger.certificate, stranger.key)
        with pytest.raises(ssl.SSLError):
            shake(tls, "a.test", context)

    def test_new_authorities_make_old_tickets_void(
        self, one: Certificate, authority: Certificate, tmp_path: Path
    ) -> None:
        tls = Tls(configured(one, client_auth="required", client_ca=str(authority.certificate)))
        known = signed_by(authority, tmp_path, "/CN=ann")
        context = client()
        context.load_cert_chain(known.certificate, known.key)
        session = shake(tls, "a.test", context)[0].session
        assert shake(tls, "a.test", context, session)[0].session_reused
        other = self_signed(tmp_path, "ca.test", stem="ca2", days=90)
        authority.certificate.write_bytes(other.certificate.read_bytes())
        tls.turn()
        with pytest.raises(ssl.SSLError):
            shake(tls, "a.test", context, session)

    def test_unreadable_authorities_leave_the_old_ones(
        self, one: Certificate, authority: Certificate
    ) -> None:
        tls = Tls(configured(one, client_auth="required", client_ca=str(authority.certificate)))
        authority.certificate.write_text("nothing")
        tls.turn()
        assert [event for event, _ in tls.said] == ["certificate_unusable"]
        assert tls.counters.tls_reload_failed == 1
        one.overwrite(self_signed(authority.key.parent, "a.test", stem="new", days=90))
        tls.turn()
        assert tls.counters.tls_reload_failed == 2
        with pytest.raises(ssl.SSLError):
            shake(tls)
        with pytest.raises(ConfigError, match=r"tls\.client_ca"):
            ServerTls(tls_config(one, authority), tls.clock, Counters(), lambda *_, **__: None)


def tls_config(one: Certificate, authority: Certificate) -> Config:
    """A configuration whose authorities were good when it was read."""
    good = authority.certificate.read_bytes()
    authority.certificate.write_bytes(one.certificate.read_bytes())
    config = configured(one, client_auth="required", client_ca=str(authority.certificate))
    authority.certificate.write_bytes(good)
    return config


class TestRenewal:
    def test_new_files_are_shown(self, one: Certificate, two: Certificate, tmp_path: Path) -> None:
        tls = Tls(configured(one, two))
        new = self_signed(tmp_path, "c.test", stem="new", days=30)
        one.overwrite(new)
        tls.turn(9.0)
        assert shown(tls, "c.test") != certificate_of(new)
        tls.turn(1.0)
        assert shown(tls, "c.test") == certificate_of(new)
        assert shown(tls, "b.a.test") == certificate_of(two)
        assert [event for event, _ in tls.said] == ["certificate_renewed"]
        assert set(tls.counters.tls_certs_not_after) == {("c.test",), ("b.a.test",)}
        assert tls.counters.tls_reloads == 1
        tls.turn()
        assert tls.counters.tls_reloads == 1

    @pytest.mark.parametrize("damage", ["key", "garbage", "gone", "expired"])
    def test_what_cannot_be_used_leaves_the_old_one(
        self, one: Certificate, tmp_path: Path, damage: str
    ) -> None:
        tls = Tls(configured(one))
        before = certificate_of(one)
        other = self_signed(tmp_path, "a.test", stem="other", days=90)
        if damage == "key":
            one.key.write_bytes(other.key.read_bytes())
        elif damage == "garbage":
            one.certificate.write_text("nothing")
        elif damage == "gone":
            one.certificate.unlink()
        else:
            one.overwrite(self_signed(tmp_path, "a.test", stem="old", days=0))
        tls.turn()
        tls.turn()
        assert shown(tls, "a.test") == before
        ((event, fields),) = tls.said  # once, not at every look
        assert event == "certificate_unusable"
        assert "what was there before stays in use" in fields["detail"]
        assert (tls.counters.tls_reload_failed, tls.counters.tls_reload_failures) == (1, 1)
        one.overwrite(other)
        tls.turn()
        assert shown(tls, "a.test") == certificate_of(other)
        assert tls.counters.tls_reload_failed == 0

    def test_only_when_asked_for(self, one: Certificate, tmp_path: Path) -> None:
        tls = Tls(configured(one, reload_interval=0))
        before = certificate_of(one)
        one.overwrite(self_signed(tmp_path, "a.test", stem="new", days=90))
        tls.turn(100_000.0)
        assert shown(tls) == before

    def test_its_end_is_warned_about_once_a_day(self, tmp_path: Path) -> None:
        tls = Tls(configured(self_signed(tmp_path, "a.test", days=15)))
        tls.turn()
        assert tls.said == []
        tls.clock.now += 11 * 86_400
        for _ in range(3):
            tls.turn()
        assert [event for event, _ in tls.said] == ["certificate_ends"]
        tls.turn(86_400.0)
        assert len(tls.said) == 2

    def test_gone_between_reading_and_start(self, one: Certificate) -> None:
        config = configured(one)
        one.key.unlink()
        with pytest.raises(ConfigError, match="must be a readable PEM file"):
            Tls(config)
