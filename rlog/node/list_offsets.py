"""ListOffsets: where a partition starts, where the committed part ends, what was first after a moment.

A search by time may read the disk and decompress a batch, to 64 MiB at most. A Worker takes it in steps, each
of one interval of a log's index; a connection has one step under way, whatever the headers of the batches
claim and however many requests and partitions it asks about: others wait for one step of each at most.
"""

from collections import deque
from dataclasses import dataclass

from rlog.errors import CorruptBatch
from rlog.log.time_search import TimeStep
from rlog.node.env import WorkerTask
from rlog.node.fetch import check_generation
from rlog.node.kafka_connection import Request
from rlog.node.serving import ServedPartition
from rlog.wire.kafka import (
    EARLIEST,
    LATEST,
    Reader,
    codes,
    decode_list_offsets_request,
    encode_list_offsets_response,
)
from rlog.wire.kafka.apis import IMPLEMENTED_FROM, LIST_OFFSETS
from rlog.wire.kafka.messages import ListedPartition, ListOffsetsPartition, ListOffsetsRequest


def handle_list_offsets(request: Request, reader: Reader) -> None:
    """Version 0 answered in lists of offsets: it is read, and answered UNSUPPORTED_VERSION."""
    _ListOffsets(request).start(decode_list_offsets_request(reader, request.version))


@dataclass(slots=True)
class _Search:
    """A search by time: no record below `next_offset` is late enough; the result goes to results[place]."""

    partition: ServedPartition
    asked: ListOffsetsPartition
    results: list[ListedPartition]
    place: int
    next_offset: int = 0


class _ListOffsets:
    """One request, perhaps under way."""

    __slots__ = ("is_cancelled", "request", "searches", "topics", "under_way")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.topics: list[tuple[str, list[ListedPartition]]] = []
        self.searches: deque[_Search] = deque()
        self.under_way: WorkerTask | None = None  # the last step that was begun
        self.is_cancelled = False

    def start(self, wanted: ListOffsetsRequest) -> None:
        for topic, partitions in wanted.topics:
            results: list[ListedPartition] = []
            self.topics.append((topic, results))
            for part in partitions:
                self._look_up(topic, part, results)
        if not self.searches:
            self._answer()
            return
        self.request.cancel = self._cancel
        turns = self.request.connection.search_turns
        turns.append(self._take_turn)
        if len(turns) == 1:
            self._go_on()

    def _look_up(self, topic: str, part: ListOffsetsPartition, results: list[ListedPartition]) -> None:
        """What takes no search is answered at once."""
        partition = self.request.node.partitions.get((topic, part.partition))
        if self.request.version < IMPLEMENTED_FROM[LIST_OFFSETS]:
            results.append(ListedPartition(part.partition, codes.UNSUPPORTED_VERSION))
        elif partition is None:
            results.append(ListedPartition(part.partition, codes.UNKNOWN_TOPIC_OR_PARTITION))
        elif part.timestamp_ms >= 0:
            self.searches.append(_Search(partition, part, results, len(results)))
            results.append(ListedPartition(part.partition, codes.NONE))
        else:
            results.append(_bound(partition, part))

    def _go_on(self) -> None:
        """The next step of the first search; the answer when there is none, and the next request's turn."""
        while self.searches and not self._step(self.searches[0]):
            self.searches.popleft()
        if not self.searches:
            self._answer()
            turns = self.request.connection.search_turns
            turns.popleft()
            if turns:
                self.request.loop.call_soon(turns[0])

    def _take_turn(self) -> None:
        if not self.is_cancelled:
            self._go_on()

    def _answer(self) -> None:
        version, correlation_id = self.request.version, self.request.correlation_id
        self.request.answer(encode_list_offsets_response(correlation_id, version, self.topics))

    def _step(self, search: _Search) -> bool:
        """Whether a step is under way; if not, the search ended."""
        error = _refusal(search.partition, search.asked.generation)
        if error != codes.NONE:
            search.results[search.place] = ListedPartition(search.asked.partition, error)
            return False
        step = search.partition.time_search(search.asked.timestamp_ms, search.next_offset)
        self.under_way = self.request.node.env.searches.submit(step, self._found, self._failed)
        return True

    def _found(self, found: TimeStep | CorruptBatch | None) -> None:
        """The step of the first search is done."""
        if self.is_cancelled:
            return
        search = self.searches[0]
        index = search.asked.partition
        step = search.partition.find_time(search.asked.timestamp_ms, search.next_offset, found)
        search.next_offset = step.next_offset
        if step.error == codes.NONE and step.found is None and search.next_offset < search.partition.hwm:
            self._go_on()
            return
        if step.found is None:
            search.results[search.place] = ListedPartition(index, step.error)
        else:
            offset, timestamp_ms, generation = step.found
            found_here = ListedPartition(index, codes.NONE, timestamp_ms, offset, generation)
            search.results[search.place] = found_here
        self.searches.popleft()
        self._go_on()

    def _failed(self) -> None:
        if not self.is_cancelled:
            self.request.fail("a search failed as none should")

    def _cancel(self) -> None:
        self.is_cancelled = True
        if self.under_way is not None:
            self.under_way.cancel()


def _refusal(partition: ServedPartition, generation: int) -> int:
    error = check_generation(partition, generation)
    if error == codes.NONE and not partition.is_leader:
        error = codes.NOT_LEADER_OR_FOLLOWER
    if error == codes.NONE and not partition.serving:
        error = codes.OFFSET_NOT_AVAILABLE  # its mark may lie below what was acknowledged (SAFETY 32)
    return error


def _bound(partition: ServedPartition, part: ListOffsetsPartition) -> ListedPartition:
    """The earliest or the latest offset; other numbers below 0 mean things that came with later versions."""
    error = _refusal(partition, part.generation)
    if error == codes.NONE and part.timestamp_ms not in (EARLIEST, LATEST):
        error = codes.UNSUPPORTED_VERSION
    if error != codes.NONE:
        return ListedPartition(part.partition, error)
    offset = partition.start_offset if part.timestamp_ms == EARLIEST else partition.hwm
    return ListedPartition(part.partition, codes.NONE, -1, offset, partition.generation)
