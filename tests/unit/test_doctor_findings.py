from __future__ import annotations

import json

from proxy.doctor.findings import as_json, as_text, error, exit_status, ok, warning

FOUND = [ok("a", "x", "well"), warning("b", "y", "so\nso", "mend it"), error("c", "z", "é ill", "cure it")]


def test_the_worst_one_is_the_exit_status() -> None:
    assert [exit_status(FOUND[:count]) for count in range(4)] == [0, 0, 1, 2]


def test_one_line_a_finding_whatever_a_server_said() -> None:
    assert as_text(FOUND).splitlines() == [
        "ok      x: a: well",
        "warning y: b: so\\x0aso; cure: mend it",
        "error   z: c: \\xe9 ill; cure: cure it",
        "1 errors, 1 warnings",
    ]


def test_json_says_the_same() -> None:
    said = json.loads(as_json(FOUND))
    assert said["status"] == 2
    assert said["findings"][1] == {
        "severity": "warning",
        "code": "b",
        "subject": "y",
        "text": "so\nso",
        "cure": "mend it",
    }
