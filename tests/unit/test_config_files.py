"""The PEM files of a configuration: each mistake names key, file and cure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from proxy.config import files
from proxy.config.load import config_from
from proxy.config.schema import Config
from proxy.errors import ConfigError
from tests.support.tls import self_signed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.tls import Certificate

pytestmark = pytest.mark.needs("openssl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def long(folder: Path) -> Certificate:
    """One that does not end soon."""
    return self_signed(folder, "a.test", stem="long", days=90)


@pytest.fixture(scope="module")
def short(folder: Path) -> Certificate:
    return self_signed(folder, "b.test", stem="short", days=0)


def pair(made: Certificate) -> dict[str, str]:
    return {"certificate": str(made.certificate), "key": str(made.key)}


def problems(**mapping: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_from({"upstream": "http://web:1", "listen_tls": "127.0.0.1:443", **mapping}, "file")
    return [str(problem) for problem in caught.value.problems]


def test_a_good_one_has_nothing_to_say(long: Certificate) -> None:
    mapping = {"upstream": "http://web:1", "listen_tls": "127.0.0.1:443", "tls": pair(long)}
    assert config_from(mapping).warnings == ()


def test_an_expired_one(long: Certificate, short: Certificate) -> None:
    (problem,) = problems(certificates=[pair(long), pair(short)][1:])
    assert problem.startswith(f'file: certificates[0].certificate = "{short.certificate}": has expired at ')


def test_one_that_ends_soon_is_warned_about(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = self_signed(folder, "c.test", stem="soon", days=90)
    later = 80 * 86_400
    from proxy.clock import Clock

    now = Clock().wall()
    monkeypatch.setattr(Clock, "wall", lambda _: now + later)
    mapping = {"upstream": "http://web:1", "listen_tls": "127.0.0.1:443", "tls": pair(made)}
    (warning,) = config_from(mapping).warnings
    assert warning.startswith(f"the certificate in {made.certificate} expires at ")


def test_the_short_form_is_blamed_by_its_own_keys(long: Certificate, folder: Path) -> None:
    (problem,) = problems(tls={"certificate": str(long.certificate), "key": f"{folder}/no"})
    assert problem.startswith(f'file: tls.key = "{folder}/no": must be a readable PEM file')
    (problem,) = problems(tls={"certificate": str(long.certificate)})
    assert problem.startswith(f'file: tls.certificate = "{long.certificate}": must be a PEM file with the')


def test_two_certificates_for_one_name(long: Certificate, folder: Path) -> None:
    again = self_signed(folder, "a.test", stem="again", days=90)
    (problem,) = problems(tls=pair(long), certificates=[pair(again)])
    assert problem == (
        f'file: certificates[0].certificate = "{again.certificate}": holds a.test, which the certificate of '
        "tls holds too: SNI could not choose"
    )


def test_an_entry_without_its_file_is_one_problem() -> None:
    assert any("certificates[0].certificate" in problem for problem in problems(certificates=[{"key": "/k"}]))


def test_authorities(folder: Path, long: Certificate) -> None:
    (problem,) = problems(tls={**pair(long), "client_auth": "optional", "client_ca": f"{folder}/no"})
    assert problem.startswith(f'file: tls.client_ca = "{folder}/no": must be readable')


class TestUpstream:
    URL = "https://web:443"

    def test_its_own_certificate(self, long: Certificate) -> None:
        keys = {"client_cert": str(long.certificate), "client_key": str(long.key)}
        assert config_from({"upstreams": {"default": {"url": self.URL, **keys}}}).config

    @pytest.mark.parametrize("said", ["client_cert", "client_key"])
    def test_one_that_is_not_there(self, long: Certificate, folder: Path, said: str) -> None:
        keys = {"client_cert": str(long.certificate), "client_key": str(long.key), said: f"{folder}/no"}
        with pytest.raises(ConfigError) as caught:
            config_from({"upstreams": {"default": {"url": self.URL, **keys}}}, "file")
        (problem,) = map(str, caught.value.problems)
        assert problem.startswith(f'file: upstreams.default.{said} = "{folder}/no": must be a readable')


def test_a_configuration_without_files_has_nothing_wrong_with_them() -> None:
    assert files.judge_files(Config(), {}, 0.0) == files.FileJudgement((), ())
