"""Every advertised version of every request, drawn at random, against two independent codecs, both ways."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlog.wire.kafka.apis import ADVERTISED, NAMES
from tests.wire.oracle_table_cold import TABLE, WITHOUT_ORACLE
from tests.wire.oracles import ORACLES
from tests.wire.test_kafka_codec import opened

EVERY_VERSION = [
    (api.api_key, version) for api in ADVERTISED for version in range(api.version_min, api.version_max + 1)
]
CASES = [case for case in EVERY_VERSION if case not in WITHOUT_ORACLE]
NAMED = [f"{NAMES[key]} {version}" for key, version in CASES]
EXAMPLES = 15
TESTS = Path(__file__).parent

quick = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


def test_each_advertised_version_has_an_oracle() -> None:
    """A version that is advertised anew fails here until the table has it, or says where it is tested."""
    missing = [f"{NAMES[key]} {version}" for key, version in CASES if key not in TABLE]
    assert not missing, f"advertised, and compared with no other codec: {missing}"
    assert WITHOUT_ORACLE.keys() <= set(EVERY_VERSION)
    for where in WITHOUT_ORACLE.values():
        file, _, test = where.partition("::")
        assert f"def {test}(" in (TESTS / file).read_text(), where


@pytest.mark.parametrize("name", list(ORACLES))
@pytest.mark.parametrize(("api_key", "version"), CASES, ids=NAMED)
@quick
@given(data=st.data())
def test_requests(name: str, api_key: int, version: int, data: st.DataObject) -> None:
    api = TABLE[api_key]
    drawn = data.draw(api.request(version))
    theirs = ORACLES[name]("Request", api_key, version, drawn.plain)
    assert api.decode_request(opened(theirs, api_key, version), version) == drawn.ours
    assert drawn.encoded is None or b"".join(drawn.encoded) == theirs


@pytest.mark.parametrize("name", list(ORACLES))
@pytest.mark.parametrize(("api_key", "version"), CASES, ids=NAMED)
@quick
@given(data=st.data())
def test_answers(name: str, api_key: int, version: int, data: st.DataObject) -> None:
    api = TABLE[api_key]
    drawn = data.draw(api.response(version))
    theirs = ORACLES[name]("Response", api_key, version, drawn.plain)
    assert drawn.encoded is not None
    assert b"".join(drawn.encoded) == theirs
    assert api.decode_response is None or api.decode_response(theirs[4:], version) == drawn.ours
