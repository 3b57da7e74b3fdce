"""The command `posthog-proxy init`.

Exit status: 0 done, 1 where the system or what is there already is in the way, 2 where what was asked for
cannot be.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.errors import ConfigError, described
from proxy.setup import facts, files
from proxy.setup.plan import DISABLE, Wish, advice, hidden, plan

if TYPE_CHECKING:
    from collections.abc import Sequence

_WHERE = (
    "where does PostHog run? --preset posthog-cloud-us, posthog-cloud-eu or hobby, or --upstream with its "
    "URL (none answered on http://127.0.0.1:8000/_health)"
)

_ELSEWHERE = (
    "install it elsewhere: "
    "python3 -m venv /opt/posthog-proxy && /opt/posthog-proxy/bin/pip install posthog-proxy"
)


def main(arguments: Sequence[str]) -> int:
    """Set up the service, or take it away; return the exit status."""
    options = _parser().parse_args(arguments)
    root = Path(options.root)
    try:
        return _uninstall(root, options.force) if options.uninstall else _init(options, root)
    except ConfigError as error:
        for problem in error.problems:
            _complain(str(problem))
        return 2
    except files.Occupied as error:
        for path in error.paths:
            _complain(f"{path} is there already; --force writes over it")
        return 1
    except OSError as error:
        _complain(described(error))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="posthog-proxy init",
        description="Write configuration and units of a service under systemd, and say what to do next.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        default="",
        help="where PostHog runs: posthog-cloud-us, posthog-cloud-eu, self-hosted or hobby",
    )
    parser.add_argument(
        "--upstream", metavar="URL", default="", help="PostHog itself; default: looked for on this host"
    )
    parser.add_argument(
        "--behind",
        metavar="LIST",
        type=_list,
        default=(),
        help="what stands in front: cloudflare, aws-alb, gcp, nginx, private, addresses",
    )
    parser.add_argument(
        "--host", metavar="LIST", type=_list, default=(), help="the names that are served; default: all"
    )
    parser.add_argument(
        "--listen",
        metavar="LIST",
        type=_list,
        default=(),
        help="where to listen; default: 0.0.0.0:80, behind nginx 127.0.0.1:8000",
    )
    parser.add_argument("--root", metavar="DIR", default="/", help="write below this folder; default: /")
    parser.add_argument("--force", action="store_true", help="write over, or remove, what others changed")
    parser.add_argument("--uninstall", action="store_true", help="remove exactly what init has written")
    return parser


def _list(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _init(options: argparse.Namespace, root: Path) -> int:
    wish = Wish(options.preset, options.upstream, options.behind, options.host, options.listen)
    if wish.preset in ("", "self-hosted") and not wish.upstream:
        found = facts.find_posthog()
        if found is None:
            _complain(_WHERE)
            return 2
        print(f"PostHog answers on {found}")
        wish = replace(wish, preset="self-hosted", upstream=found)
    words = facts.program()
    unseen = hidden(facts.needed_paths(words))
    if unseen and root == Path("/"):
        _complain(f"a service cannot see {', '.join(unseen)} (ProtectHome, PrivateTmp); {_ELSEWHERE}")
        return 1
    alias = facts.alias_of(root, wish.hosts)
    what = plan(wish, words, alias, facts.today())
    changed = files.write(root, what.files, force=options.force)
    for path in what.files:
        print(f"{'wrote' if path in changed else 'unchanged'} {facts.below(root, path)}")
    for warning in what.warnings:
        print(f"warning: {warning}")
    if not facts.in_use(root):
        for address in facts.taken(wish.addresses):
            print(
                f"warning: something listens on {address} already: stop it, or choose another with --listen"
            )
    print("\n".join(advice(wish, alias)))
    return 0


def _uninstall(root: Path, force: bool) -> int:
    used = facts.in_use(root)
    if used and not force:
        _complain(f"{' and '.join(used)} still in use; first: {DISABLE}")
        return 1
    removal = files.remove(root, force=force)
    if removal is None:
        _complain("init has written nothing here")
        return 1
    for path in removal.removed:
        print(f"removed {facts.below(root, path)}")
    for path in removal.kept:
        print(f"kept {facts.below(root, path)}: it was changed since (--force removes it)")
    print("Next:\n  systemctl daemon-reload")
    return 0


def _complain(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)
