"""The blocking twin of `rlog.client.consumer`: the same names and arguments, without `async`.

Records are decoded on the loop, many at a time; iterating crosses to it only when none is left.
"""

import threading
from datetime import datetime
from types import TracebackType
from typing import Self

from rlog.client import consumer as client
from rlog.client.cursor import PartitionState
from rlog.client.errors import ClientError
from rlog.client.positions import Start
from rlog.moments import Time
from rlog.records import Record
from rlog.sync.portal import Portal


class Consumer:
    """Made by `Cluster.consumer`; read by one thread at a time, watched and closed by any."""

    def __init__(self, portal: Portal, consumer: client.Consumer) -> None:
        self.topic = consumer.topic
        self._portal = portal
        self._consumer = consumer
        self._read_lock = threading.Lock()

    def __enter__(self) -> Self:
        self._portal.run(self._consumer.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def open(self, *, timeout_ms: int | None = None) -> None:
        """Look the topic up and begin to fetch; reading does this by itself.

        Raises UnknownTopic, UnknownPartition, DeadlineExceeded.
        """
        self._portal.run(self._consumer.open(timeout_ms=timeout_ms))

    @property
    def is_closed(self) -> bool:
        return self._consumer.is_closed or self._portal.is_closed

    def close(self) -> None:
        """End fetching and close its connections. It always returns; in a forked child it does nothing.

        A thread that waits for records gets ClientClosed.
        """
        if not self._portal.is_forked and not self.is_closed:
            self._portal.run(self._consumer.close())

    # -- reading

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record:
        """The next record, waiting for as long as it takes. Raises as `fetch` does."""
        self._begin_reading()
        try:
            while (record := self._consumer.take_decoded()) is None:
                self._portal.run(self._consumer.decode_more())
            return record
        finally:
            self._read_lock.release()

    def fetch(self, *, timeout_ms: int | None = None) -> list[Record]:
        """The next records, as many as one answer held; empty when none came in time.

        See `rlog.client.Consumer.fetch`. Interrupted by Ctrl-C, what it would have returned is read again.
        """
        self._begin_reading()
        try:
            return self._portal.run(self._consumer.fetch(timeout_ms=timeout_ms), undo=self._consumer.unread)
        finally:
            self._read_lock.release()

    def values(self, *, timeout_ms: int | None = None) -> list[bytes | None]:
        """As `fetch`, the bare values only: the fastest way to read."""
        self._begin_reading()
        try:
            return self._portal.run(self._consumer.values(timeout_ms=timeout_ms), undo=self._consumer.unread)
        finally:
            self._read_lock.release()

    def _begin_reading(self) -> None:
        self._portal.check()
        if not self._read_lock.acquire(blocking=False):
            raise ClientError("the consumer is read by two threads at once; give each thread its own")

    # -- where it stands

    def seek(self, partition: int, start: Start) -> None:
        """Read on from `start`, as in `Cluster.consumer`. Raises UnknownPartition; open() comes first."""
        self._portal.call(lambda: self._consumer.seek(partition, start))

    def seek_to_time(self, time: Time, *partitions: int) -> None:
        """Read on from the first record at or after `time`, in all partitions or in those named.

        A partition that has none yet is read from its end. Raises as `seek`.
        """
        self._portal.call(lambda: self._consumer.seek_to_time(time, *partitions))

    def pause(self, *partitions: int) -> None:
        """Return and fetch nothing more of these partitions, all when none is named, until `resume`."""
        self._portal.call(lambda: self._consumer.pause(*partitions))

    def resume(self, *partitions: int) -> None:
        """End a `pause`; nothing was lost meanwhile, but what retention removed."""
        self._portal.call(lambda: self._consumer.resume(*partitions))

    def position(self, partition: int = 0) -> int | None:
        """The offset of the next record to be returned; None while the start is being looked up."""
        return self._portal.call(lambda: self._consumer.position(partition))

    @property
    def buffered_bytes(self) -> int:
        """What is fetched ahead of the reader and not decoded yet; see prefetch_bytes_max."""
        return self._portal.call(lambda: self._consumer.buffered_bytes)

    @property
    def state(self) -> tuple[PartitionState, ...]:
        """For each partition its position, lag, and what it waits for; empty before the topic is known."""
        return self._portal.call(lambda: self._consumer.state)

    @property
    def lag(self) -> int | None:
        """Records between the reader and the committed ends; None until every leader has answered once."""
        return self._portal.call(lambda: self._consumer.lag)

    @property
    def last_progress(self) -> datetime | None:
        """When records were last given to the reader, in UTC by this machine's clock; None before that."""
        return self._portal.call(lambda: self._consumer.last_progress)
