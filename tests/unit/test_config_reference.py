from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from proxy.config import keys
from proxy.config.environment import POSTHOG_NAMES
from proxy.config.load import FLAGS, config_from
from proxy.config.reading import Reading
from proxy.config.reference import reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
ROW = re.compile(
    r"^\| `(?P<name>\w+)` \| (?P<allowed>.+?) \| (?P<default>.+?) \| (?P<doc>.+?) \| (?P<why>.*?) \|$"
)


def section(heading: str) -> dict[str, re.Match[str]]:
    """The rows of one section's table by key."""
    text = reference().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return {row["name"]: row for line in text.splitlines() if (row := ROW.match(line))}


def test_the_page_is_what_the_generator_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run: posthog-proxy config-reference > docs/configuration.md"
    )


def test_every_key_stands_in_its_section() -> None:
    headings = {"": "Top level", "upstreams.NAME": "`[upstreams.NAME]`"}
    headings |= {f"{name}[]": f"`[[{name}]]`" for name in keys.arrays()}
    for path, key in keys.all_keys().items():
        if key.tables:  # a section, not a row
            continue
        table = path.rpartition(".")[0]
        row = section(headings.get(table, f"`[{table}]`"))[key.name]
        assert row["doc"].strip() == key.doc
        assert row["why"].strip() == key.why


@pytest.mark.parametrize(
    ("heading", "name", "allowed", "default"),
    [
        ("Top level", "listen", "a list (each `HOST:PORT` or `unix:/path`)", '`["127.0.0.1:8000"]`'),
        ("Top level", "upstream", "`http://host[:port]`", "not set"),
        ("`[upstreams.NAME]`", "url", "`http://host[:port]`", "must be given"),
        ("`[upstreams.NAME]`", "host", "one of `keep`, `upstream`", '`"keep"`'),
        ("`[limits]`", "head_bytes", "a size from 1KiB to 1MiB", '`"64KiB"`'),
        ("`[timeouts]`", "head", "a time from 0.1s to 7d", '`"10s"`'),
        ("`[pool]`", "retry_share", "a number from 0 to 1", "`0.1`"),
        ("`[trust]`", "all", "true or false", "`false`"),
        ("`[log]`", "access", "`stdout`, `stderr`, `off` or a file's path", '`"stdout"`'),
    ],
)
def test_a_row_says_what_is_allowed_and_the_default(
    heading: str, name: str, allowed: str, default: str
) -> None:
    row = section(heading)[name]
    assert row["allowed"].startswith(allowed)
    assert row["default"] == default


def test_every_default_on_the_page_can_be_written_into_the_file() -> None:
    for table, cls in keys.sections().items():
        for name, key in keys.keys_of(cls, table).items():
            literal = section(f"`[{table}]`")[name]["default"].strip("`")
            if key.default is None:
                assert literal == "not set"
                continue
            reading = Reading()
            reading.take_mapping(tomllib.loads(f"[{table}]\n{name} = {literal}"), "page")
            assert not reading.problems
            assert reading.settings[key.path].value == key.default


def test_the_examples_on_the_page_are_valid() -> None:
    examples = re.findall(r"```toml\n(.*?)```", reference(), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        config_from(tomllib.loads(example))


def test_the_page_names_every_flag_and_every_variable_of_posthog() -> None:
    page = reference()
    for word in (*FLAGS.values(), *POSTHOG_NAMES):
        assert f"`{word}`" in page
