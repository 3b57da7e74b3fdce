"""The PEM files that a configuration names: read once when it is, so that a mistake is found by `check` and
at start, and not by the first client."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.config.keypair import UnusablePairError, authorities_failure, load_pair, read_pair
from proxy.config.notation import shown
from proxy.config.schema import configured_certificates
from proxy.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxy.config.keypair import KeyPair
    from proxy.config.reading import Setting
    from proxy.config.schema import CertificateConfig, Config


@dataclass(frozen=True, slots=True)
class FileJudgement:
    """What is wrong with the files, and what will soon be."""

    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


def judge_files(config: Config, given: Mapping[str, Setting], wall: float) -> FileJudgement:
    """Read every file; certificates are judged as of ``wall``, in seconds since the epoch."""
    problems = [*_authorities(config, given), *_client_pairs(config, given)]
    warnings = []
    owners: dict[str, str] = {}
    for table, certificate in _tables(config):
        try:
            pair = read_pair(certificate.certificate, certificate.key)
        except UnusablePairError as error:
            problems.append(_of_pair(given, table, certificate, error))
            continue
        untimely, when = pair.untimely(wall), pair.ends_soon(wall)
        if untimely is not None:
            problems.append(_about(given, f"{table}.certificate", certificate.certificate, untimely))
        elif when is not None:
            file = certificate.certificate
            warnings.append(f"the certificate in {file} {when}: renew it, and see why nobody has yet")
        problems += _doubled(given, table, certificate, pair, owners)
    return FileJudgement(tuple(problems), tuple(warnings))


def _tables(config: Config) -> Iterator[tuple[str, CertificateConfig]]:
    """Every certificate and the table that gives it; one without a file's name (a problem already) is
    left out."""
    short = len(configured_certificates(config)) - len(config.certificates)
    for number, certificate in enumerate(configured_certificates(config), -short):
        if certificate.certificate:
            yield "tls" if number < 0 else f"certificates[{number}]", certificate


def _authorities(config: Config, given: Mapping[str, Setting]) -> Iterator[Problem]:
    files = {f"upstreams.{name}.ca_file": upstream.ca_file for name, upstream in config.upstreams.items()}
    files["tls.client_ca"] = config.tls.client_ca
    for path, file in files.items():
        failure = authorities_failure(file) if file else None
        if failure is not None:
            yield _about(given, path, file, failure)


def _client_pairs(config: Config, given: Mapping[str, Setting]) -> Iterator[Problem]:
    for name, upstream in config.upstreams.items():
        if not upstream.client_cert:
            continue
        try:
            load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), upstream.client_cert, upstream.client_key)
        except UnusablePairError as error:
            said, file = ("client_cert", upstream.client_cert)
            if error.of_key and upstream.client_key:
                said, file = ("client_key", upstream.client_key)
            yield _about(given, f"upstreams.{name}.{said}", file, str(error))


def _doubled(
    given: Mapping[str, Setting],
    table: str,
    certificate: CertificateConfig,
    pair: KeyPair,
    owners: dict[str, str],
) -> Iterator[Problem]:
    """A name that another certificate has too; ``owners``: the table of each name, filled here."""
    for name in pair.names:
        owner = owners.setdefault(name, table)
        if owner != table:
            allowed = f"holds {name}, which the certificate of {owner} holds too: SNI could not choose"
            yield _about(given, f"{table}.certificate", certificate.certificate, allowed)
            return


def _of_pair(
    given: Mapping[str, Setting], table: str, certificate: CertificateConfig, error: UnusablePairError
) -> Problem:
    if error.of_key and certificate.key:
        return _about(given, f"{table}.key", certificate.key, str(error))
    return _about(given, f"{table}.certificate", certificate.certificate, str(error))


def _about(given: Mapping[str, Setting], path: str, file: str, allowed: str) -> Problem:
    """A problem with a setting that was given, by itself or in a list of tables."""
    setting = given.get(path)
    if setting is not None:
        return Problem(setting.said, shown(file), allowed, setting.where)
    listed = given.get(path.partition("[")[0])
    return Problem(path, shown(file), allowed, "" if listed is None else listed.where)
