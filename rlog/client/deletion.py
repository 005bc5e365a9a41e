"""Asking leaders to delete the beginnings of their partitions."""

from collections.abc import Mapping
from typing import Final, Literal

from rlog.client.connection import Connection
from rlog.client.errors import ConnectionLost, OffsetOutOfRange, RefusedForNow, RequestRefused
from rlog.client.offsets import PASSING_CODES, leaders_of, list_offset_once
from rlog.client.positions import INT64_MAX
from rlog.client.router import CONTROL, Router
from rlog.errors import ConfigurationError, ProtocolError
from rlog.wire.kafka import apis, codes
from rlog.wire.kafka.delete_records import (
    HIGH_WATER_MARK,
    decode_delete_records_response,
    encode_delete_records_request,
)
from rlog.wire.kafka.list_offsets import EARLIEST, LATEST
from rlog.wire.kafka.messages import DeletedPartition, DeleteRecordsPartition, DeleteRecordsRequest

Below = int | Literal["latest"]
"""The records below this offset go; "latest": all that is committed."""

# The node's answer is to come before this client takes it for dead.
ANSWER_SHARE: Final = 0.75


def wire_offset(below: Below) -> int:
    """Raises ConfigurationError."""
    if below == "latest":
        return HIGH_WATER_MARK
    if not isinstance(below, int) or isinstance(below, bool) or not 0 <= below <= INT64_MAX:
        raise ConfigurationError(
            f"{below!r} is neither an offset nor 'latest': name the first record to keep"
        )
    return below


async def delete_records(
    router: Router, topic: str, below: Mapping[int, Below], deadline: float
) -> dict[int, int]:
    """One request per leader; repeated until the deadline. Below an offset, deleting twice changes nothing;
    "latest", asked again because no answer came, takes what was committed meanwhile too.

    Returns for each partition the first offset that is left. Raises OffsetOutOfRange, DeadlineExceeded,
    UnknownTopic, UnknownPartition, UnsupportedNode, RequestRefused.
    """
    offsets = {partition: wire_offset(each) for partition, each in below.items()}
    starts: dict[int, int] = {}

    async def attempt(deadline: float) -> None:
        left = [partition for partition in offsets if partition not in starts]
        for address, led in (await leaders_of(router, topic, left, deadline)).items():
            limit = router.share_of(deadline)
            try:
                connection = await router.pool.get(address, CONTROL, limit)
                asked = [DeleteRecordsPartition(partition, offsets[partition]) for partition in led]
                answers = await _ask(router, connection, topic, asked, limit)
            except ConnectionLost:
                for partition in led:
                    router.cache.doubt(topic, partition)
                raise
            for answer in answers:
                starts[answer.partition] = await _judge(router, topic, answer, offsets, limit)

    await router.retry(f"deleting records of {topic!r}", attempt, deadline)
    return {partition: starts[partition] for partition in below}


async def _ask(
    router: Router,
    connection: Connection,
    topic: str,
    asked: list[DeleteRecordsPartition],
    deadline: float,
) -> list[DeletedPartition]:
    version = connection.version(apis.DELETE_RECORDS)
    left_ms = (deadline - router.loop.time()) * 1000
    timeout_ms = max(1, int(ANSWER_SHARE * min(left_ms, router.settings.request_timeout_ms)))
    request = DeleteRecordsRequest([(topic, asked)], timeout_ms)
    frame = await connection.request(
        lambda correlation: encode_delete_records_request(
            correlation, router.settings.client_id, request, version=version
        ),
        deadline,
    )
    answers = [answer for _, deleted in decode_delete_records_response(frame) for answer in deleted]
    if sorted(answer.partition for answer in answers) != sorted(each.partition for each in asked):
        raise ProtocolError(f"{connection.address} answered DeleteRecords about other partitions than asked")
    return answers


async def _judge(
    router: Router, topic: str, answer: DeletedPartition, offsets: Mapping[int, int], deadline: float
) -> int:
    what = f"deleting records of {topic}-{answer.partition}"
    if answer.error in PASSING_CODES:
        router.cache.doubt(topic, answer.partition)
        is_unknown = answer.error not in codes.RETRIABLE_NOT_PERSISTED
        raise RefusedForNow(what, answer.error, outcome="unknown" if is_unknown else "no")
    if answer.error == codes.OFFSET_OUT_OF_RANGE:
        start = await list_offset_once(router, topic, answer.partition, EARLIEST, deadline)
        end = await list_offset_once(router, topic, answer.partition, LATEST, deadline)
        mend = f"Records can be deleted below {end} at most, which 'latest' stands for"
        raise OffsetOutOfRange(topic, answer.partition, offsets[answer.partition], start, end, mend=mend)
    if answer.error != codes.NONE:
        raise RequestRefused(what, answer.error)
    return answer.log_start_offset
