"""What the doctor finds: one line each, with what is to be done about it."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Severity(enum.IntEnum):
    """How bad it is; the exit status is that of the worst finding."""

    OK = 0
    WARNING = 1
    ERROR = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """``code`` is a machine word, ``subject`` what was looked at (an upstream's name, ``machine`` ...)."""

    severity: Severity
    code: str
    subject: str
    text: str
    cure: str = ""


def ok(code: str, subject: str, text: str) -> Finding:
    """All is well."""
    return Finding(Severity.OK, code, subject, text)


def warning(code: str, subject: str, text: str, cure: str) -> Finding:
    """It works, but hardly as it is meant."""
    return Finding(Severity.WARNING, code, subject, text, cure)


def error(code: str, subject: str, text: str, cure: str) -> Finding:
    """Events, pages or addresses are lost."""
    return Finding(Severity.ERROR, code, subject, text, cure)


def exit_status(findings: Iterable[Finding]) -> int:
    """0: nothing to do; 1: warnings; 2: errors."""
    return int(max((finding.severity for finding in findings), default=Severity.OK))


def as_text(findings: Sequence[Finding]) -> str:
    """Return a line for each finding, and the count."""
    lines = [_line(finding) for finding in findings]
    counts = {each: sum(finding.severity is each for finding in findings) for each in Severity}
    lines.append(f"{counts[Severity.ERROR]} errors, {counts[Severity.WARNING]} warnings")
    return "\n".join([*lines, ""])


def _line(finding: Finding) -> str:
    words = (
        f"{finding.severity.name.lower():<7} {finding.subject}: {finding.code}: {_printable(finding.text)}"
    )
    return f"{words}; cure: {finding.cure}" if finding.cure else words


def _printable(text: str) -> str:
    """Some of it is what a server said: one line, whatever it was."""
    return text.encode("ascii", "backslashreplace").decode("ascii").translate(_CONTROLS)


_CONTROLS = {code: f"\\x{code:02x}" for code in [*range(32), 127]}


def as_json(findings: Sequence[Finding]) -> str:
    """Return the same as one JSON object."""
    said = [
        {
            "severity": finding.severity.name.lower(),
            "code": finding.code,
            "subject": finding.subject,
            "text": finding.text,
            "cure": finding.cure,
        }
        for finding in findings
    ]
    return json.dumps({"status": exit_status(findings), "findings": said}, indent=2) + "\n"
