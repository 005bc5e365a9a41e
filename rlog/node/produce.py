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
    _Produce(request, produce.acks).start(produce, error)


class _Produce:
    """One request under way: a result per partition, and how many are still missing.

    It does not hold the records: their client may be gone, and the frame's bytes are counted for nobody then.
    """

    __slots__ = ("acks", "missing", "request", "topics")

    def __init__(self, request: Request, acks: int) -> None:
        self.request = request
        self.acks = acks
        self.missing = 1  # one for `start` itself, so that results that come at once do not end it early
        self.topics: list[tuple[str, list[ProducedPartition]]] = []

    def start(self, produce: ProduceRequest, error: int) -> None:
        deadline = self.request.loop.time() + produce.timeout_ms / 1000
        for topic, partitions in produce.topics:
            results: list[ProducedPartition] = []
            self.topics.append((topic, results))
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
            partition.produce(part.records, acks=self.acks, deadline=deadline, done=done)

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
        if self.acks != 0:
            request.answer(encode_produce_response(request.correlation_id, request.version, self.topics))
            return
        for topic, results in self.topics:
            for result in results:
                if result.error != codes.NONE:
                    name = codes.name_of(result.error)
                    request.connection.close(f"{topic}-{result.partition}: {name}, and acks=0 has no answer")
        request.answer([])
