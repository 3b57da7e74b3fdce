"""The house rules that can be read off the source: layers, sizes, a test file for every module.

A file imports only from lower layers and from its own folder; imports under TYPE_CHECKING and inside
functions count too. The modules of the top layer may use each other, but nothing there or below may
touch the stand-in, save the command that starts its demo.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "proxy"

TOP = 7
LAYERS = {
    "errors": 0,
    "clock": 0,
    "message": 0,
    "config": 1,
    "rules": 2,
    "observe": 2,
    "wire": 3,
    "net": 4,
    "spool": 5,
    "cache": 5,
    "serve": 6,
    "accepting": TOP,
    "admin": 6,
    "delivery": TOP,
    "server": TOP,
    "service": TOP,
    "workers": TOP,
    "notify": TOP,
    "doctor": TOP,
    "explain": TOP,
    "setup": TOP,
    "routes": TOP,
    "cli": TOP,
    "top": TOP,
    "spool_command": TOP,
    "standin": TOP,
    "__init__": TOP,
    "__main__": TOP,
}
"""The layer of every file and folder directly in proxy/; one that is not named here has no place yet."""

MAX_LINES = 500

MODULES = sorted(PACKAGE.rglob("*.py"))


def home(module: str) -> str:
    """The file or folder directly in proxy/ that a dotted module name belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def dotted(path: Path) -> str:
    """`proxy.config.schema`; a package's own file is called after the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def exists(module: str) -> bool:
    path = ROOT / Path(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Every module that the source imports, wherever the statement stands, as absolute names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, base] if base else package)
            for alias in node.names:
                # `from proxy import clock` imports a module, `from proxy.clock import Clock` a name of one.
                yield f"{base}.{alias.name}" if exists(f"{base}.{alias.name}") else base


def verdict(importer: str, imported: str) -> str | None:
    """Why ``importer`` may not import ``imported``, ``None`` if it may."""
    if imported != "proxy" and not imported.startswith("proxy."):
        return (
            "only the stand-in may need it"
            if imported.split(".")[0] == "aiohttp" and home(importer) != "standin"
            else None
        )
    mine, theirs = home(importer), home(imported)
    if mine not in LAYERS or theirs not in LAYERS:
        return "it has no layer"
    if theirs == "standin" and mine not in {"standin", "cli"}:
        return "the proxy does not use its stand-in"
    if mine == theirs or LAYERS[theirs] < LAYERS[mine] or LAYERS[mine] == TOP == LAYERS[theirs]:
        return None
    if LAYERS[mine] == LAYERS[theirs] == 0:
        return None
    return f"layer {LAYERS[mine]} may not look at layer {LAYERS[theirs]}"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_only_what_lies_below(path: Path) -> None:
    module = dotted(path)
    assert home(module) in LAYERS, f"{path} has no layer: name it in {Path(__file__).name}"
    found = imports(path.read_text("utf-8"), module, is_package=path.name == "__init__.py")
    broken = {imported: why for imported in found if (why := verdict(module, imported)) is not None}
    assert not broken


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_stays_readable(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", [path for path in MODULES if not path.stem.startswith("__")], ids=dotted)
def test_has_a_unit_test_file(path: Path) -> None:
    name = "_".join(path.relative_to(PACKAGE).with_suffix("").parts)
    assert (ROOT / "tests" / "unit" / f"test_{name}.py").is_file()


@pytest.mark.parametrize("folder", [path for path in PACKAGE.iterdir() if path.is_dir()], ids=str)
def test_knows_every_folder(folder: Path) -> None:
    assert folder.name in LAYERS or not list(folder.rglob("*.py"))


@pytest.mark.parametrize(
    ("importer", "source", "reasons"),
    [
        ("proxy.rules.address", "from proxy.message import Peer", 0),
        ("proxy.rules.address", "import proxy.rules.routing", 0),
        ("proxy.rules.address", "from proxy.observe import log", 1),
        ("proxy.rules.address", "from ..net import pool", 1),
        ("proxy.rules.address", "def f():\n    from proxy import server", 1),
        ("proxy.wire.strict", "if TYPE_CHECKING:\n    from proxy.serve.exchange import Exchange", 1),
        ("proxy.clock", "from proxy.errors import Failure", 0),
        ("proxy.clock", "from proxy.config.schema import Config", 1),
        ("proxy.config.load", "from proxy.rules.address import walk", 1),
        ("proxy.config.load", "import proxy", 1),
        ("proxy.cli", "from proxy.server import Proxy", 0),
        ("proxy.cli", "from proxy.standin.demo import main", 0),
        ("proxy.server", "from proxy.standin.server import Standin", 1),
        ("proxy.server", "from aiohttp import web", 1),
        ("proxy.standin.demo", "from aiohttp import web\nfrom proxy.server import Proxy", 0),
        ("proxy.rules.address", "from proxy.helpers import join", 1),
    ],
)
def test_the_reading_of_imports(importer: str, source: str, reasons: int) -> None:
    found = imports(source, importer, is_package=False)
    assert sum(verdict(importer, imported) is not None for imported in found) == reasons
