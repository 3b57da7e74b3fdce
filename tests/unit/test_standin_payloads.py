"""The shapes of what SDKs read."""

from __future__ import annotations

import json
from uuid import UUID

from proxy.standin import payloads

ID = "01939c4e-0000-7000-8000-000000000001"


def test_flags_as_records_from_version_2_on() -> None:
    for version in (2, 4):
        answer = payloads.flags(version, ID)
        assert answer["requestId"] == ID
        assert answer["errorsWhileComputingFlags"] is False
        assert {key: record["enabled"] for key, record in answer["flags"].items()} == {
            "demo-flag": True,
            "demo-variant": True,
        }
        assert answer["flags"]["demo-flag"]["variant"] is None
        assert answer["flags"]["demo-variant"]["variant"] == "blue"
        assert json.loads(answer["flags"]["demo-variant"]["metadata"]["payload"]) == {"colour": "blue"}


def test_flags_as_plain_values_before() -> None:
    answer = payloads.flags(1, ID)
    assert answer["featureFlags"] == {"demo-flag": True, "demo-variant": "blue"}
    assert set(answer["featureFlagPayloads"]) == {"demo-variant"}


def test_an_empty_set_is_still_an_answer() -> None:
    assert payloads.flags(2, ID, empty=True)["flags"] == {}
    legacy = payloads.flags(1, ID, empty=True)
    assert legacy["featureFlags"] == legacy["featureFlagPayloads"] == {}


def test_a_request_id_is_kept_only_if_it_is_a_uuid() -> None:
    assert payloads.request_id(ID.upper()) == ID
    for given in (None, "", "abc", "1; drop"):
        assert UUID(payloads.request_id(given)).version == 4


def test_definitions_say_what_the_flags_say() -> None:
    flags = payloads.definitions()["flags"]
    assert [flag["key"] for flag in flags] == list(payloads.FLAGS)
    assert flags[0]["filters"]["multivariate"] is None
    assert flags[1]["filters"]["multivariate"]["variants"][0]["key"] == "blue"


def test_etags_differ_by_content() -> None:
    assert payloads.etag(b"a") == payloads.etag(b"a") != payloads.etag(b"b")
    assert payloads.etag(b"a").startswith('"')


def test_the_config_script_holds_the_config() -> None:
    script = payloads.config_script("phc_1")
    assert 'window._POSTHOG_REMOTE_CONFIG["phc_1"]' in script
    assert json.dumps(payloads.remote_config("phc_1")) in script
    assert payloads.remote_config("phc_1")["sessionRecording"]["endpoint"] == "/s/"
