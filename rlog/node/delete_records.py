"""DeleteRecords: hand each partition's new start to its replica, answer when all have said how it ended."""

from functools import partial

from rlog.node.kafka_connection import Request
from rlog.node.serving import DeleteOutcome
from rlog.wire.kafka import (
    Reader,
    codes,
    decode_delete_records_request,
    encode_delete_records_response,
)
from rlog.wire.kafka.messages import DeletedPartition, DeleteRecordsPartition, DeleteRecordsRequest

# Who asks for more time asks again: what waits without a majority takes places that others need.
TIMEOUT_MS_MAX = 60_000


def handle_delete_records(request: Request, reader: Reader) -> None:
    _Deletion(request).start(decode_delete_records_request(reader))


class _Deletion:
    """One request under way: a result per partition, and how many are still missing."""

    __slots__ = ("missing", "request", "topics")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.missing = 1  # one for `start` itself, so that results that come at once do not end it early
        self.topics: list[tuple[str, list[DeletedPartition]]] = []

    def start(self, asked: DeleteRecordsRequest) -> None:
        deadline = self.request.loop.time() + min(asked.timeout_ms, TIMEOUT_MS_MAX) / 1000
        for topic, partitions in asked.topics:
            results: list[DeletedPartition] = []
            self.topics.append((topic, results))
            for place, part in enumerate(partitions):
                results.append(DeletedPartition(part.partition, codes.UNKNOWN_TOPIC_OR_PARTITION))
                self._start_partition(topic, part, deadline, results, place)
        self._one_less()

    def _start_partition(
        self,
        topic: str,
        part: DeleteRecordsPartition,
        deadline: float,
        results: list[DeletedPartition],
        place: int,
    ) -> None:
        partition = self.request.node.partitions.get((topic, part.partition))
        if partition is not None:
            self.missing += 1
            partition.delete_records(part.offset, deadline=deadline, done=partial(self._done, results, place))

    def _done(self, results: list[DeletedPartition], place: int, outcome: DeleteOutcome) -> None:
        results[place] = DeletedPartition(results[place].partition, outcome.error, outcome.log_start)
        self._one_less()

    def _one_less(self) -> None:
        self.missing -= 1
        if self.missing == 0:
            request = self.request
            request.answer(encode_delete_records_response(request.correlation_id, self.topics))
