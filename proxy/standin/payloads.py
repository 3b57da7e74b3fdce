"""What PostHog answers to the reads of its SDKs, for a project with two flags and nothing else set up."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from uuid import UUID, uuid4

FLAGS: dict[str, bool | str] = {"demo-flag": True, "demo-variant": "blue"}
"""The project's flags: one boolean, one with a variant and a payload."""

PAYLOADS = {"demo-variant": '{"colour": "blue"}'}


def request_id(given: str | None) -> str:
    """Feature flags answer with the X-Request-Id that they were sent, if it is a UUID."""
    try:
        return str(UUID(given or ""))
    except ValueError:
        return str(uuid4())


def _flag_v2(number: int, key: str, value: bool | str) -> dict[str, Any]:
    return {
        "key": key,
        "enabled": bool(value),
        "variant": value if isinstance(value, str) else None,
        "reason": {
            "code": "condition_match",
            "condition_index": 0,
            "description": "Matched condition set 1",
        },
        "metadata": {"id": number, "version": 1, "description": None, "payload": PAYLOADS.get(key)},
    }


def flags(version: int, identifier: str, *, empty: bool = False) -> dict[str, Any]:
    """The answer of `/flags?v=` (2 and above: records; below: plain values). ``empty`` is what a GET gets."""
    known = {} if empty else FLAGS
    answer: dict[str, Any] = {"errorsWhileComputingFlags": False, "requestId": identifier}
    if version >= 2:
        answer["flags"] = {
            key: _flag_v2(number, key, value) for number, (key, value) in enumerate(known.items(), 1)
        }
    else:
        answer["featureFlags"] = dict(known)
        answer["featureFlagPayloads"] = {} if empty else dict(PAYLOADS)
    return answer


def definitions() -> dict[str, Any]:
    """What SDKs evaluate locally: `/flags/definitions` and its older name."""
    return {
        "flags": [
            {
                "id": number,
                "team_id": 1,
                "name": key,
                "key": key,
                "filters": _filters(key, value),
                "deleted": False,
                "active": True,
                "ensure_experience_continuity": False,
                "version": 1,
            }
            for number, (key, value) in enumerate(FLAGS.items(), 1)
        ],
        "group_type_mapping": {},
        "cohorts": {},
    }


def _filters(key: str, value: bool | str) -> dict[str, Any]:
    filters: dict[str, Any] = {
        "groups": [{"properties": [], "rollout_percentage": 100}],
        "payloads": {},
        "multivariate": None,
    }
    if isinstance(value, str):
        variant = {"key": value, "name": value, "rollout_percentage": 100}
        filters["multivariate"] = {"variants": [variant]}
        filters["payloads"] = {value: PAYLOADS[key]}
    return filters


def etag(body: bytes) -> str:
    """A strong entity tag."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def remote_config(token: str) -> dict[str, Any]:
    """`/array/<token>/config`: what posthog-js asks for first."""
    return {
        "token": token,
        "supportedCompression": ["gzip", "gzip-js"],
        "hasFeatureFlags": True,
        "captureDeadClicks": False,
        "capturePerformance": {"network_timing": True, "web_vitals": False},
        "autocapture_opt_out": False,
        "autocaptureExceptions": False,
        "analytics": {"endpoint": "/i/v0/e/"},
        "elementsChainAsString": True,
        "sessionRecording": {
            "endpoint": "/s/",
            "version": "v2",
            "recorderVersion": "v2",
            "consoleLogRecordingEnabled": False,
        },
        "heatmaps": False,
        "surveys": False,
        "defaultIdentifiedOnly": True,
        "siteApps": [],
    }


def config_script(token: str) -> str:
    """`/array/<token>/config.js`: the same as a script, where posthog-js looks for it."""
    name = json.dumps(token)
    return (
        "(function() {\n"
        "  window._POSTHOG_REMOTE_CONFIG = window._POSTHOG_REMOTE_CONFIG || {};\n"
        f"  window._POSTHOG_REMOTE_CONFIG[{name}] = {{\n"
        f"    config: {json.dumps(remote_config(token))},\n"
        "    siteApps: []\n"
        "  };\n"
        "})();\n"
    )


READS: dict[str, dict[str, Any]] = {
    "/surveys": {"surveys": []},
    "/api/surveys": {"surveys": []},
    "/api/web_experiments": {"experiments": []},
    "/api/early_access_features": {"earlyAccessFeatures": []},
    "/api/product_tours": {"product_tours": []},
}
"""Reads with nothing set up."""

LOGIN_PAGE = (
    "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><title>PostHog</title></head>"
    "<body><h1>Log in</h1><form method=post action=/login>"
    "<input name=email type=email><input name=password type=password><button>Log in</button>"
    "</form></body></html>\n"
)
"""What current Django answers to every path that it does not know, SDK paths included."""
