"""Asking leaders where their partitions start and end, and which record was the first after a moment."""

from collections.abc import Iterable, Mapping
from typing import Final

from rlog.client.connection import Connection
from rlog.client.errors import ConnectionLost, RefusedForNow, RequestRefused
from rlog.client.router import CONTROL, Router
from rlog.client.settings import Address
from rlog.errors import ProtocolError
from rlog.wire.kafka import apis, codes
from rlog.wire.kafka.list_offsets import decode_list_offsets_response, encode_list_offsets_request
from rlog.wire.kafka.messages import ListedPartition, ListOffsetsPartition, ListOffsetsRequest

PASSING_CODES: Final = codes.RETRIABLE_NOT_PERSISTED | {codes.REQUEST_TIMED_OUT, codes.KAFKA_STORAGE_ERROR}


async def list_offset_once(
    router: Router, topic: str, partition: int, timestamp_ms: int, deadline: float
) -> int:
    """One attempt at `list_offsets` for one partition."""
    connection = await router.connection_once(topic, partition, CONTROL, deadline)
    _, generation = router.cache.leader(topic, partition)
    question = ListOffsetsPartition(partition, timestamp_ms, generation)
    (answer,) = await _ask(router, connection, topic, [question], deadline)
    return _judge(router, topic, answer)


async def list_offsets(
    router: Router, topic: str, timestamps_ms: Mapping[int, int], deadline: float
) -> dict[int, int]:
    """For each partition the offset that its timestamp stands for, one request per leader.

    A timestamp is EARLIEST, LATEST (the committed end, exclusive) or milliseconds since the epoch: the first
    record at or after it, -1 when there is none. Raises DeadlineExceeded, UnknownTopic, UnknownPartition.
    """
    found: dict[int, int] = {}

    async def attempt(deadline: float) -> None:
        left = [partition for partition in timestamps_ms if partition not in found]
        for address, led in (await leaders_of(router, topic, left, deadline)).items():
            limit = router.share_of(deadline)
            try:
                connection = await router.pool.get(address, CONTROL, limit)
                questions = [
                    ListOffsetsPartition(partition, timestamps_ms[partition], generation)
                    for partition, generation in led.items()
                ]
                answers = await _ask(router, connection, topic, questions, limit)
            except ConnectionLost:
                for partition in led:
                    router.cache.doubt(topic, partition)
                raise
            for answer in answers:
                found[answer.partition] = _judge(router, topic, answer)

    await router.retry(f"asking for offsets of {topic!r}", attempt, deadline)
    return {partition: found[partition] for partition in timestamps_ms}


async def leaders_of(
    router: Router, topic: str, partitions: Iterable[int], deadline: float
) -> dict[Address, dict[int, int]]:
    """Who leads which of the partitions, with their generations. Raises as `Router.leader_once`."""
    led: dict[Address, dict[int, int]] = {}
    for partition in partitions:
        node, generation = await router.leader_once(topic, partition, deadline)
        led.setdefault(node.address, {})[partition] = generation
    return led


async def _ask(
    router: Router,
    connection: Connection,
    topic: str,
    questions: list[ListOffsetsPartition],
    deadline: float,
) -> list[ListedPartition]:
    version = connection.version(apis.LIST_OFFSETS)
    request = ListOffsetsRequest([(topic, questions)])
    frame = await connection.request(
        lambda correlation: encode_list_offsets_request(
            correlation, router.settings.client_id, request, version=version
        ),
        deadline,
    )
    answers = [answer for _, listed in decode_list_offsets_response(frame, version) for answer in listed]
    if sorted(answer.partition for answer in answers) != sorted(asked.partition for asked in questions):
        raise ProtocolError(f"{connection.address} answered ListOffsets about other partitions than asked")
    return answers


def _judge(router: Router, topic: str, answer: ListedPartition) -> int:
    what = f"asking for the offsets of {topic}-{answer.partition}"
    if answer.error in PASSING_CODES:
        router.cache.doubt(topic, answer.partition)
        raise RefusedForNow(what, answer.error)
    if answer.error != codes.NONE:
        raise RequestRefused(what, answer.error)
    return answer.offset
