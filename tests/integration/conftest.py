"""What the tests with real servers share: a certificate, and the servers' words when a test fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.process import LIVE
from tests.support.tls import self_signed

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.support.tls import Certificate

SITE = "posthog.example.test"
"""The public name of the installation in these tests."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what every running server said beside a failure."""
    report = yield
    if report.failed:
        report.sections += [(process.name, process.report()) for process in LIVE]
    return report


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for ``SITE`` and 127.0.0.1."""
    return self_signed(tmp_path_factory.mktemp("tls"), SITE)
