"""Asking a leader where its partition starts and ends."""

from typing import Final

from rlog.client.connection import Connection
from rlog.client.errors import RefusedForNow, RequestRefused
from rlog.client.router import CONTROL, Router, expect_one
from rlog.wire.kafka import apis, codes
from rlog.wire.kafka.list_offsets import (
    EARLIEST,
    LATEST,
    decode_list_offsets_response,
    encode_list_offsets_request,
)
from rlog.wire.kafka.messages import ListOffsetsPartition, ListOffsetsRequest

TIMESTAMPS: Final = {"earliest": EARLIEST, "latest": LATEST}
PASSING_CODES: Final = codes.RETRIABLE_NOT_PERSISTED | {codes.REQUEST_TIMED_OUT, codes.KAFKA_STORAGE_ERROR}


async def list_offset_once(router: Router, topic: str, partition: int, which: str, deadline: float) -> int:
    """ "earliest": the start offset. "latest": the committed end, exclusive. One attempt."""
    connection = await router.connection_once(topic, partition, CONTROL, deadline)
    _, generation = router.cache.leader(topic, partition)
    return await _ask(
        router, connection, topic, ListOffsetsPartition(partition, TIMESTAMPS[which], generation), deadline
    )


async def _ask(
    router: Router, connection: Connection, topic: str, question: ListOffsetsPartition, deadline: float
) -> int:
    version = connection.version(apis.LIST_OFFSETS)
    request = ListOffsetsRequest([(topic, [question])])
    frame = await connection.request(
        lambda correlation: encode_list_offsets_request(
            correlation, router.settings.client_id, request, version=version
        ),
        deadline,
    )
    what = f"asking for the offsets of {topic}-{question.partition}"
    answer = expect_one(decode_list_offsets_response(frame, version), what)
    if answer.error in PASSING_CODES:
        router.cache.doubt(topic, question.partition)
        raise RefusedForNow(what, answer.error)
    if answer.error != codes.NONE:
        raise RequestRefused(what, answer.error)
    return answer.offset


async def list_offset(router: Router, topic: str, partition: int, which: str, deadline: float) -> int:
    """As `list_offset_once`, repeated until the deadline. Raises DeadlineExceeded, UnknownTopic, and
    others.
    """

    async def attempt(deadline: float) -> int:
        return await list_offset_once(router, topic, partition, which, deadline)

    return await router.retry(f"asking for the {which} offset of {topic}-{partition}", attempt, deadline)
