"""Every error rlog raises: whose problem it is, what to do, and whether the write may have happened.

`outcome` answers the one question a writer has after an error (docs/guarantees.md, 4):

* ``"no"``       the operation is known not to have taken effect; doing it again is safe.
* ``"unknown"``  it may have taken effect; only an idempotent retry is safe.
"""

import os
from typing import Literal, Self

Outcome = Literal["no", "unknown"]


class RlogError(Exception):
    """Base of all errors of rlog. `outcome` says whether a write may have happened."""

    outcome: Outcome = "no"

    def __init__(self, message: str, *, outcome: Outcome | None = None) -> None:
        super().__init__(message)
        if outcome is not None:
            self.outcome = outcome


class ConfigurationError(RlogError):
    """A setting is missing, impossible, or contradicts another; the message names it and the mend."""


class DataDirectoryError(RlogError):
    """The data directory is in use, foreign, from a newer version, or not accessible; the message says by
    whom, and what to do.
    """


class CorruptBatch(RlogError, ValueError):
    """Bytes offered as a RecordBatch are not one: wrong structure, length or checksum.

    `position` is the byte at which the bad batch starts in the buffer that was offered.
    """

    def __init__(self, message: str, *, position: int = 0) -> None:
        super().__init__(message)
        self.position = position


class InvalidTimestamp(CorruptBatch):
    """A batch claims that its timestamps are a leader's: send it with the producer's own (CreateTime)."""


class BatchTooLarge(CorruptBatch):
    """A batch, or one record alone, exceeds the size allowed; send less at once or raise the limit.

    `size_bytes` is what was offered, `bytes_max` the limit.
    """

    def __init__(self, message: str, *, size_bytes: int, bytes_max: int, position: int = 0) -> None:
        super().__init__(message, position=position)
        self.size_bytes = size_bytes
        self.bytes_max = bytes_max


class UnsupportedCodec(RlogError):
    """An intact batch is compressed in a way this build cannot read; `codec` is its name. Produce it with
    another codec, or read it with a client that knows this one.
    """

    def __init__(self, message: str, *, codec: str) -> None:
        super().__init__(message)
        self.codec = codec


class ForkedProcess(RlogError):
    """An object was used in a child made by fork: open a new one there; the old one is the parent's."""


class WrongLoop(RlogError):
    """An asyncio object was used outside the event loop on which it was opened; nothing was done."""


class Reentered(RlogError):
    """A signal handler appended to a log amid an append of its own thread; nothing was done. Let it set a
    flag, and append where that is looked at. Closing the log there is fine.
    """


class OffsetConflict(RlogError):
    """The log does not end where the caller expected: somebody else appended. Read on from `actual`.

    `expected` is what was asked for, `actual` the end of the log.
    """

    def __init__(self, message: str, *, expected: int, actual: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class OffsetOutOfRange(RlogError):
    """The asked offset is not in the log; what is there lies in [start_offset, end_offset)."""

    def __init__(self, message: str, *, offset: int, start_offset: int, end_offset: int) -> None:
        super().__init__(message)
        self.offset = offset
        self.start_offset = start_offset
        self.end_offset = end_offset


class LogClosed(RlogError):
    """The log was closed: open it again."""


class OutOfOrder(RlogError):
    """An idempotent producer's batch does not follow the last one appended: one before it is missing. Make a
    new producer, after a look at what the log holds.
    """


class InvalidEpoch(RlogError):
    """A newer instance of this idempotent producer has written: this one is fenced. Close it."""


class CorruptLog(RlogError):
    """The stored log is proven rotten: a replica must not serve or cut it. The others hold what
    is committed; keep the directory for a look at the disk.
    """

    def __init__(self, message: str, *, partition: str, offset: int) -> None:
        super().__init__(message)
        self.partition = partition
        self.offset = offset


class StorageFailed(RlogError):
    """A write or fsync failed; the file is fenced until restart. Never retried. Look at the disk,
    then start the node again.
    """

    outcome: Outcome = "unknown"

    def __init__(self, message: str, *, errno: int, outcome: Outcome | None = None) -> None:
        super().__init__(message, outcome=outcome)
        self.errno = errno

    @classmethod
    def of(cls, whose: str, operation: str, errno: int) -> Self:
        """Of a disk job of `whose`, with what the system says of it."""
        return cls(f"{whose}: {operation} failed: {os.strerror(errno)}", errno=errno)


class ReadFailed(RlogError):
    """The system refused to read what is stored: too many open files, no memory, no right to. Nothing is
    damaged, and nothing fenced: mend what the message names, and read again.
    """

    def __init__(self, message: str, *, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


class ProtocolError(RlogError):
    """The other side sent bytes that break the protocol; the connection is closed."""


class InvariantBroken(RlogError):
    """A safety invariant does not hold: a bug. The partition stops; it never proceeds. Report it, with the
    node's log.
    """

    outcome: Outcome = "unknown"
