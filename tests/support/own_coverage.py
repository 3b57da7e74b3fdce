"""How much of each module in layers 0 to 3 its own unit test file covers, read from one coverage run.

`pytest --cov --cov-context=test tests/unit` notes which test ran each line. A module counts as covered by
itself by the lines that ran at import and under tests/unit/test_<folder>_<file>.py; what other tests happen
to run does not help it. Exits with 1 where a module is below ``MINIMUM`` percent that way.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from coverage import Coverage

from tests.test_layers import LAYERS, MODULES, PACKAGE, dotted, home

if TYPE_CHECKING:
    from pathlib import Path

MINIMUM = 97.0
HIGHEST_LAYER = 3


def unit_test_of(path: Path) -> str:
    return "test_" + "_".join(path.relative_to(PACKAGE).with_suffix("").parts) + ".py"


def percent(statements: int, missing: int) -> float:
    return 100.0 * (statements - missing) / statements if statements else 100.0


def measure(coverage: Coverage, path: Path, contexts: list[str] | None) -> tuple[int, list[int]]:
    """The number of statements and the lines not run, in the tests whose names match ``contexts``."""
    coverage.get_data().set_query_contexts(contexts)
    _, statements, _, missing, _ = coverage.analysis2(str(path))
    return len(statements), missing


def _some(lines: list[int]) -> str:
    rest = f" and {len(lines) - 12} more" if len(lines) > 12 else ""
    return "lines " + ", ".join(map(str, lines[:12])) + rest


def main() -> int:
    coverage = Coverage()
    coverage.load()
    failed = False
    totals: dict[int, tuple[int, int]] = {}
    print(f"{'module':<32} {'layer':>5} {'lines':>6} {'all units':>10} {'its own':>9}")
    for path in MODULES:
        layer = LAYERS[home(dotted(path))]
        if layer > HIGHEST_LAYER or path.stem.startswith("__"):
            continue
        count, missing = measure(coverage, path, None)
        own_test = re.escape(f"tests/unit/{unit_test_of(path)}::")
        _, own_missing = measure(coverage, path, ["^$", f"^{own_test}"])
        own = percent(count, len(own_missing))
        statements, lost = totals.get(layer, (0, 0))
        totals[layer] = (statements + count, lost + len(missing))
        note = f"  below {MINIMUM:.0f}: {_some(own_missing)}" if own < MINIMUM else ""
        failed = failed or own < MINIMUM
        overall = percent(count, len(missing))
        print(f"{dotted(path):<32} {layer:>5} {count:>6} {overall:>9.1f}% {own:>8.1f}%{note}")
    for layer, (statements, lost) in sorted(totals.items()):
        print(f"layer {layer}: {percent(statements, lost):.1f}% of {statements} lines")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
