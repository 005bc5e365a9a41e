"""Group flush: one job in flight per file, everything queued meanwhile is the next job.

There is no timer: the next round of a log begins as its last one ends. A completion goes to the log first,
which decides whether it still counts (SAFETY 12), and to consensus only if it moved the flushed end. The
first error of a log is final for that log (SAFETY 15), the first of meta or of the watermarks for the whole
node (SAFETY 52).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from rlog._core import DiskJob
from rlog.errors import CorruptLog, StorageFailed
from rlog.log.storage import Storage
from rlog.node.env import DiskExecutor
from rlog.node.partition import Partition
from rlog.observe.counters import NodeCounters
from rlog.observe.events import emit

logger = logging.getLogger("rlog.node")


class Flusher:
    """Carries the disk jobs of one node. `failed(error)`: the node must stop."""

    def __init__(
        self,
        storage: Storage,
        disk: DiskExecutor,
        *,
        counters: NodeCounters,
        stopwatch_s: Callable[[], float],
        failed: Callable[[StorageFailed], None],
    ) -> None:
        self._storage = storage
        self._meta = storage.meta
        self._disk = disk
        self._counters = counters
        self._stopwatch_s = stopwatch_s
        self._failed = failed
        self._waiting_for_meta: deque[tuple[int, Callable[[], None]]] = deque()
        self._blocked_logs: dict[Partition, None] = {}  # queued something that needs meta on disk first
        self._short_of_room: dict[Partition, None] = {}  # what they could not write is tried again
        self._meta_in_flight = False
        self._watermarks_in_flight = False
        self.in_flight_count = 0
        self._idle: asyncio.Future[None] | None = None
        self._stopped = False

    # ---------------------------------------------------------------------------------------------- meta

    def when_saved(self, sequence: int, callback: Callable[[], None]) -> None:
        """Call back once meta is fsynced up to `sequence` (at once if it is), after whoever asked before."""
        if self._meta.flushed_sequence >= sequence:
            callback()
            return
        self._waiting_for_meta.append((sequence, callback))
        self.flush_meta()

    def flush_meta(self) -> None:
        if self._meta_in_flight or self._stopped:
            return
        job = self._meta.flush_job()
        if job is not None:
            self._meta_in_flight = True
            self._submit("meta", job, self._meta_done)

    def _meta_done(self, job: DiskJob) -> None:
        self._meta_in_flight = False
        try:
            self._meta.flush_done(job)
        except StorageFailed as error:
            self._all_failed("meta", error)
            return
        waiting = self._waiting_for_meta
        while waiting and waiting[0][0] <= self._meta.flushed_sequence:
            waiting.popleft()[1]()
        self.flush_meta()
        blocked, self._blocked_logs = self._blocked_logs, {}
        for partition in blocked:
            self.flush(partition)

    # ---------------------------------------------------------------------------------------------- logs

    def flush(self, partition: Partition) -> None:
        """Begin the next round of a log, unless one is in flight or there is nothing to do."""
        if self._stopped:
            return
        # What the log queued in meta (a generation's start, a cut) goes first: SAFETY 3, 14.
        self.flush_meta()
        try:
            job = partition.log.flush_job()
        except (StorageFailed, CorruptLog) as error:
            partition.storage_failed(str(error))
            return
        self._look_for_shortage(partition)
        if job is not None:
            self._submit("log", job, lambda done: self._log_done(partition, done))
        elif self._meta_in_flight:
            self._blocked_logs[partition] = None

    def _log_done(self, partition: Partition, job: DiskJob) -> None:
        try:
            moved = partition.log.flush_done(job)
        except StorageFailed as error:
            partition.storage_failed(str(error))
            if self._storage.failed is not None:
                self._all_failed("watermarks", error)
            return
        self._counters.flushed_bytes += job.tag.size
        if not partition.log.shortage:
            self._short_of_room.pop(partition, None)
        if partition.log.base_offset != partition.replica.start_offset:
            partition.base_moved()
        if moved:
            partition.flushed()
        self.flush(partition)

    def _look_for_shortage(self, partition: Partition) -> None:
        """A step of a deletion has no room, or no descriptor: it can be done later (SAFETY 16)."""
        shortage = partition.log.shortage
        if not shortage or partition in self._short_of_room:
            return  # or said already
        self._short_of_room[partition] = None
        emit(
            logger,
            logging.WARNING,
            "no_room",
            partition=partition.name,
            node=partition.replica.node_id,
            reason=f"{shortage}; it is tried again each second",
        )

    def sync_watermarks(self) -> None:
        """Make the watermarks survive a power cut, and look for room; called about once a second."""
        for partition in list(self._short_of_room):
            partition.log.try_again()
            self.flush(partition)
        if self._watermarks_in_flight or self._stopped:
            return
        job = self._storage.watermark_job()
        if job is not None:
            self._watermarks_in_flight = True
            self._submit("watermarks", job, self._watermarks_done)

    def _watermarks_done(self, job: DiskJob) -> None:
        self._watermarks_in_flight = False
        try:
            self._storage.watermark_done(job)
        except StorageFailed as error:
            self._all_failed("watermarks", error)

    def _all_failed(self, file: str, error: StorageFailed) -> None:
        """Meta or the watermarks failed: no log can be trusted to recover any more."""
        self._counters.disk_errors[file] += 1
        self._stopped = True
        self._failed(error)

    def _submit(self, file: str, job: DiskJob, done: Callable[[DiskJob], None]) -> None:
        """file: what the round is of, as rlog.observe.counters.FILES names it."""
        self.in_flight_count += 1
        begin = self._stopwatch_s()

        def completed(finished: DiskJob) -> None:
            self.in_flight_count -= 1
            self._counters.flush_duration[file].observe(self._stopwatch_s() - begin)
            if not self._stopped:
                done(finished)
            if self.in_flight_count == 0 and self._idle is not None and not self._idle.done():
                self._idle.set_result(None)

        self._disk.submit(job, completed)

    async def settle(self) -> None:
        """Return when no job is in flight; a completion begins the next round of its file, if any."""
        while self.in_flight_count:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    def stop(self) -> None:
        """No more jobs, and those in flight have no effect any more."""
        self._stopped = True
