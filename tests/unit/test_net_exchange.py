"""The contract of an upstream exchange: whatever carries one has all of it, and nothing else is used."""

from __future__ import annotations

import ast
import inspect

import pytest

import proxy.serve.exchange as caller
from proxy.net.exchange import UpstreamExchange
from proxy.net.http1 import Http1Exchange

CONTRACT = {
    name: member for name, member in vars(UpstreamExchange).items() if not name.startswith("_") and member
}


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_http1_fulfils_the_contract(name: str) -> None:
    promised, kept = CONTRACT[name], getattr(Http1Exchange, name)
    if isinstance(promised, property):
        assert isinstance(kept, property)
    else:
        assert inspect.signature(kept) == inspect.signature(promised)
        assert inspect.iscoroutinefunction(kept) == inspect.iscoroutinefunction(promised)


def test_the_general_exchange_uses_nothing_but_the_contract() -> None:
    used = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(caller)))
        if isinstance(node, ast.Attribute)
        and (
            (isinstance(node.value, ast.Name) and node.value.id == "exchange")
            or (isinstance(node.value, ast.Attribute) and node.value.attr == "exchange")
        )
    }
    assert used
    assert used <= CONTRACT.keys()
