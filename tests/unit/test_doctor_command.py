from __future__ import annotations

import asyncio

import pytest

from proxy import cli
from proxy.standin.server import Standin
from tests.support.ports import free_port


@pytest.fixture
def nobody() -> str:
    return f"http://127.0.0.1:{free_port()}"


def test_text_and_the_exit_status(nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--upstream", nobody]) == 2
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith("error   default: connect: ") for line in said)
    assert said[-1].startswith("1 errors, ")


@pytest.mark.parametrize("timeout", ["0", "601"])
def test_a_time_out_without_sense(timeout: str, nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--upstream", nobody, "--timeout", timeout])
    assert "--timeout" in capsys.readouterr().err


def test_a_public_name_that_is_none(nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--upstream", nobody, "--through", "x"]) == 2
    assert "error: --through x: must be" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--host", "a b"), ("--origin", "a\r\nb c: d")])
async def test_what_cannot_be_asked(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    async with Standin() as standin:
        status = await asyncio.to_thread(cli.main, ["doctor", "--upstream", standin.url, *words])
    assert status == 2
    assert "error: --host or --origin: " in capsys.readouterr().err


def test_a_wrong_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--set", "x=1"]) == 2
    assert "not a known key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "host"),
    [
        ((), b"127.0.0.1:"),
        (("--allowed-hosts", ".a.test,b.test"), b"b.test"),
        (("--host", "c.test"), b"c.test"),
    ],
)
async def test_which_host_is_asked_for(words: tuple[str, ...], host: bytes) -> None:
    from proxy.doctor.command import examine

    async with Standin() as standin:
        parser = cli._parser(["doctor"])
        options = parser.parse_args(["doctor", "--upstream", standin.url, *words])
        read = cli._load(options)
        assert read is not None
        await examine(options, read[1])
        hosts = {value for request in standin.requests for name, value in request.fields if name == "Host"}
    assert all(value.startswith(host.decode()) for value in hosts)
    assert len(hosts) == 1
