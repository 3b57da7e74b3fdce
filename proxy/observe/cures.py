"""What whoever reads an error line can do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_REPORT = "a bug of posthog-proxy: report this line and the traceback; other requests are served on"
_CORRECT = (
    "correct what the detail names, look with `posthog-proxy check`, reload again; the old one serves on"
)

CURES: Mapping[str, str] = {
    "accept_failed": "raise the limit of open files (LimitNOFILE= of the unit) or lower limits.connections",
    "admin_error": "a bug of posthog-proxy: report this line and the traceback; requests are served on",
    "admin_unchanged": "correct [admin] and reload again; until then the old listener answers",
    "certificate_ends": "see why it was not renewed; a new file is used by itself",
    "certificate_unusable": "put a certificate and its key there that belong together; until then the "
    "old one is shown",
    "configuration": "the detail says what to change; `posthog-proxy doctor` tells more",
    "forward_auth_unreachable": "start the service that access.forward_auth names, or correct the url of its "
    "upstream; until then protected paths are refused",
    "internal_error": _REPORT,
    "logs_not_reopened": "let the user that the proxy runs as create files there; until then the old ones "
    "are written on",
    "parent_gone": "the parent process was killed: look for the reason (memory?) in the system's log; the "
    "service manager starts it again",
    "passwords_not_reloaded": "correct the file; until then the users of before hold",
    "reload_failed": _CORRECT,
    "spool": "docs/spool.md says what it means",
    "stopped_at_once": "requests were cut: give it timeouts.drain before the second signal",
    "worker_died": "it is replaced; signal SIGKILL without your doing means memory: see the system's log",
    "worker_garbled": _REPORT,
    "worker_stuck": "it is replaced; if it comes again, report it with the lines before",
}
"""By event. Where the line says more than its event, it brings its own ``cure``."""
