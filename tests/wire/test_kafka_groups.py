"""What a client that looks for its group is told, against the other codecs and through a real door."""

import logging

import pytest

from rlog.wire import kafka
from rlog.wire.kafka import apis, codes
from rlog.wire.kafka.messages import FindCoordinatorRequest, FindCoordinatorResponse
from tests.wire.fakes import Door, FakeNode, run
from tests.wire.oracles import CORRELATION_ID, ORACLES
from tests.wire.test_kafka_codec import Oracle, opened

JOIN = {
    "group_id": "billing",
    "session_timeout_ms": 6000,
    "member_id": "",
    "protocol_type": "consumer",
    "protocols": [{"name": "range", "metadata": b"\0\1"}, {"name": "roundrobin", "metadata": b""}],
}
NO_MEMBER = {
    "error_code": codes.UNSUPPORTED_VERSION,
    "generation_id": -1,
    "protocol_name": "",
    "leader": "",
    "member_id": "",
    "members": [],
}


@pytest.fixture(params=list(ORACLES))
def oracle(request: pytest.FixtureRequest) -> Oracle:
    return ORACLES[request.param]


@pytest.mark.parametrize("version", range(3))
def test_find_coordinator(oracle: Oracle, version: int) -> None:
    asked = oracle("Request", apis.FIND_COORDINATOR, version, {"key": "billing", "key_type": 1})
    decoded = kafka.decode_find_coordinator_request(opened(asked, apis.FIND_COORDINATOR, version), version)
    assert decoded == FindCoordinatorRequest("billing", 1 if version >= 1 else 0)
    for found in (FindCoordinatorResponse(0, None, 2, "127.0.0.1", 9092), FindCoordinatorResponse(35, "no")):
        plain = {
            "throttle_time_ms": 0,
            "error_code": found.error,
            "error_message": found.message,
            "node_id": found.node_id,
            "host": found.host,
            "port": found.port,
        }
        ours = kafka.encode_find_coordinator_response(CORRELATION_ID, version, found)
        assert b"".join(ours) == oracle("Response", apis.FIND_COORDINATOR, version, plain)


def test_join_group(oracle: Oracle) -> None:
    asked = oracle("Request", apis.JOIN_GROUP, 0, JOIN)
    assert kafka.decode_join_group_request(opened(asked, apis.JOIN_GROUP, 0)) == "billing"
    refusal = kafka.encode_join_group_refusal(CORRELATION_ID, codes.UNSUPPORTED_VERSION)
    assert b"".join(refusal) == oracle("Response", apis.JOIN_GROUP, 0, NO_MEMBER)


def test_a_group_is_found_here_and_refused_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Door(FakeNode()) as door:
            client = await door.client()
            host, port = door.server.kafka_address
            asked = ORACLES["kio"]("Request", apis.FIND_COORDINATOR, 2, {"key": "g", "key_type": 0})
            here = FindCoordinatorResponse(codes.NONE, None, 1, host, port)
            expected = kafka.encode_find_coordinator_response(CORRELATION_ID, 2, here)
            assert await client.ask([asked]) == b"".join(expected)[4:]
            asked = ORACLES["kio"]("Request", apis.FIND_COORDINATOR, 2, {"key": "t", "key_type": 1})
            assert b"there are no transactions here" in await client.ask([asked])
            refused = await client.ask([ORACLES["kio"]("Request", apis.JOIN_GROUP, 0, JOIN)])
            assert int.from_bytes(refused[4:6], "big") == codes.UNSUPPORTED_VERSION

    with caplog.at_level(logging.WARNING, "rlog"):
        run(main())
    assert "group_refused node=1" in caplog.text
    assert 'group=billing reason="there are no groups here: assign the partitions to read' in caplog.text
