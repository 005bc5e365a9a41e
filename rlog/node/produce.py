"""Produce: hand each partition's batches to its replica, answer when all have said how it ended.

The record bytes stay where the request's frame has them; the partition copies them once, into its log's span.
Whether the leader may append, and at which offsets, is decided in `Partition.produce` alone (SAFETY 35).
"""

from functools import partial

from rlog.node.kafka_connection import Request
from rlog.node.serving import ProduceOutcome
from rlog.wire.kafka import Reader, codes, decode_produce_request, encode_produce_response
from rlog.wire.kafka.apis import IMPLEMENTED_FROM, PRODUCE
from rlog.wire.kafka.messages import ProducedPartition, ProducePartition, ProduceRequest

ACKS = (-1, 0, 1)


def handle_produce(request: Request, reader: Reader) -> None:
    """Versions below 3 carry older message formats: read, and answered UNSUPPORTED_VERSION."""
    produce = decode_produce_request(reader, request.version)
    error = codes.NONE
    if request.version < IMPLEMENTED_FROM[PRODUCE] or produce.transactional_id is not None:
        error = codes.UNSUPPORTED_VERSION
    elif produce.acks not in ACKS:
        error = codes.INVALID_REQUIRED_ACKS
    _Produce(request, produce).start(error)


class _Produce:
    """One request under way: a result per partition, and how many are still missing."""

    __slots__ = ("missing", "produce", "request", "results")

    def __init__(self, request: Request, produce: ProduceRequest) -> None:
        self.request = request
        self.produce = produce
        self.missing = 1  # one for `start` itself, so that results that come at once do not end it early
        self.results: list[list[ProducedPartition]] = []

    def start(self, error: int) -> None:
        deadline = self.request.loop.time() + self.produce.timeout_ms / 1000
        for topic, partitions in self.produce.topics:
            results: list[ProducedPartition] = []
            self.results.append(results)
            for place, part in enumerate(partitions):
                results.append(ProducedPartition(part.partition, error))
                if error == codes.NONE:
                    self._start_partition(topic, part, deadline, results, place)
        self._one_less()

    def _start_partition(
        self,
        topic: str,
        part: ProducePartition,
        deadline: float,
        results: list[ProducedPartition],
        place: int,
    ) -> None:
        partition = self.request.node.partitions.get((topic, part.partition))
        if partition is None:
            results[place] = ProducedPartition(part.partition, codes.UNKNOWN_TOPIC_OR_PARTITION)
        elif not part.records:
            results[place] = ProducedPartition(part.partition, codes.INVALID_RECORD)
        else:
            self.missing += 1
            done = partial(self._done, results, place)
            partition.produce(part.records, acks=self.produce.acks, deadline=deadline, done=done)

    def _done(self, results: list[ProducedPartition], place: int, outcome: ProduceOutcome) -> None:
        index = results[place].partition
        results[place] = ProducedPartition(
            index, outcome.error, outcome.base_offset, -1, outcome.log_start_offset
        )
        self._one_less()

    def _one_less(self) -> None:
        self.missing -= 1
        if self.missing == 0:
            self._end()

    def _end(self) -> None:
        request = self.request
        topics = [
            (topic, results) for (topic, _), results in zip(self.produce.topics, self.results, strict=True)
        ]
        if self.produce.acks != 0:
            request.answer(encode_produce_response(request.correlation_id, request.version, topics))
            return
        for topic, results in topics:
            for result in results:
                if result.error != codes.NONE:
                    name = codes.name_of(result.error)
                    request.connection.close(f"{topic}-{result.partition}: {name}, and acks=0 has no answer")
        request.answer([])
