"""Produce: hand each partition's batches to its replica, answer when all have said how it ended.

The record bytes stay where the request's frame has them; the partition copies them once, into its log's span.
Whether the leader may append, and at which offsets, is decided in `Partition.produce` alone (SAFETY 35).
"""

from functools import partial

from rlog.node.kafka_connection import Request
from rlog.node.serving import Buffer, ProduceOutcome
from rlog.wire.kafka import (
    Reader,
    codes,
    decode_produce_request,
    decode_rlog_produce_request,
    encode_produce_response,
    encode_rlog_produce_response,
)
from rlog.wire.kafka.apis import IMPLEMENTED_FROM, PRODUCE, RLOG_PRODUCE
from rlog.wire.kafka.messages import PartitionReceipt, ProducedPartition, ProducePartition, ProduceRequest

ACKS = (-1, 0, 1)


def handle_produce(request: Request, reader: Reader) -> None:
    """Versions below 3 carry older message formats: read, and answered UNSUPPORTED_VERSION."""
    produce = decode_produce_request(reader, request.version)
    error = _judge(produce)
    if request.version < IMPLEMENTED_FROM[PRODUCE]:
        error = codes.UNSUPPORTED_VERSION
    _Produce(request, produce.acks).start(produce, error)


def handle_rlog_produce(request: Request, reader: Reader) -> None:
    """As Produce; the answer says what a receipt says."""
    produce = decode_rlog_produce_request(reader)
    _Produce(request, produce.acks).start(produce, _judge(produce))


def _judge(produce: ProduceRequest) -> int:
    if produce.transactional_id is not None:
        return codes.UNSUPPORTED_VERSION
    return codes.NONE if produce.acks in ACKS else codes.INVALID_REQUIRED_ACKS


class _Produce:
    """One request under way: a result per partition, and how many are still missing.

    It does not hold the records: their client may be gone, and the frame's bytes are counted for nobody then.
    """

    __slots__ = ("acks", "missing", "request", "topics")

    def __init__(self, request: Request, acks: int) -> None:
        self.request = request
        self.acks = acks
        self.missing = 1  # one for `start` itself, so that results that come at once do not end it early
        self.topics: list[tuple[str, list[PartitionReceipt]]] = []

    def start(self, produce: ProduceRequest, error: int) -> None:
        deadline = self.request.loop.time() + produce.timeout_ms / 1000
        for topic, partitions in produce.topics:
            results: list[PartitionReceipt] = []
            self.topics.append((topic, results))
            for place, part in enumerate(partitions):
                results.append(PartitionReceipt(part.partition, error))
                if error != codes.NONE:
                    self.request.count_error(error)
                else:
                    self._start_partition(topic, part, deadline, results, place)
        self._one_less()

    def _start_partition(
        self,
        topic: str,
        part: ProducePartition,
        deadline: float,
        results: list[PartitionReceipt],
        place: int,
    ) -> None:
        partition = self.request.node.partitions.get((topic, part.partition))
        if partition is None:
            results[place] = PartitionReceipt(part.partition, codes.UNKNOWN_TOPIC_OR_PARTITION)
            self.request.count_error(codes.UNKNOWN_TOPIC_OR_PARTITION)
        elif not part.records:
            results[place] = PartitionReceipt(part.partition, codes.INVALID_RECORD, message="no records")
            self.request.count_error(codes.INVALID_RECORD)
        else:
            self.missing += 1
            done = partial(self._done, results, place)
            partition.produce(part.records, acks=self.acks, deadline=deadline, done=done)

    def _done(self, results: list[PartitionReceipt], place: int, outcome: ProduceOutcome) -> None:
        results[place] = PartitionReceipt(
            results[place].partition,
            outcome.error,
            outcome.base_offset,
            outcome.generation,
            outcome.log_append_time,
            outcome.log_start_offset,
            outcome.waited,
            outcome.flushed_by,
            outcome.message,
        )
        if outcome.error != codes.NONE:
            self.request.count_error(outcome.error)
        self._one_less()

    def _one_less(self) -> None:
        self.missing -= 1
        if self.missing == 0:
            self._end()

    def _end(self) -> None:
        request = self.request
        if self.acks != 0:
            request.answer(self._answer())
            return
        for topic, results in self.topics:
            for result in results:
                if result.error != codes.NONE:
                    name = codes.name_of(result.error)
                    reason = f"{topic}-{result.partition}: {name}, and acks=0 has no answer"
                    request.connection.close(reason, cause="acks_0_error")
        request.answer([])

    def _answer(self) -> list[Buffer]:
        request = self.request
        if request.api_key == RLOG_PRODUCE:
            return encode_rlog_produce_response(request.correlation_id, self.topics)
        produced = [
            (topic, [_without_receipt(result) for result in results]) for topic, results in self.topics
        ]
        return encode_produce_response(request.correlation_id, request.version, produced)


def _without_receipt(result: PartitionReceipt) -> ProducedPartition:
    return ProducedPartition(
        result.partition, result.error, result.base_offset, result.log_append_time_ms, result.log_start_offset
    )
