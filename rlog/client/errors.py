"""The client's errors. Each names the thing, says the mend, and answers whether the write may have happened.

`outcome` is "no" when the operation is known not to have taken effect and "unknown" otherwise (rlog.errors).
`Retriable` is the mark of what the client itself tries again until the deadline; a caller sees it only as the
`__cause__` of a `DeadlineExceeded` or `DeliveryFailed`.
"""

from typing import TypeVar

from rlog import errors
from rlog.errors import Outcome, RlogError
from rlog.wire.kafka.codes import name_of

E = TypeVar("E", bound=BaseException)


def afresh(error: E) -> E:
    """An error that is kept, ready to be raised once more: else its traceback would grow with each raise."""
    return error.with_traceback(None)


class ClientError(RlogError):
    """Base of the client's errors."""


class ClientClosed(ClientError):
    """The cluster, producer or consumer was closed before the operation ended; open a new one."""


class WrongLoop(ClientError, errors.WrongLoop):
    """The client was used outside the event loop on which it was connected.

    From another thread, use `asyncio.run_coroutine_threadsafe(..., loop)`; in another loop, connect again.
    """


class Retriable(ClientError):
    """An attempt failed in a way that another attempt may mend."""


class ConnectionLost(Retriable):
    """The connection to a node ended or could not be made; what was sent on it may have arrived."""

    outcome: Outcome = "unknown"


class LeaderUnavailable(Retriable):
    """No node is known to lead the partition: an election is under way, or a majority of its nodes is
    down.
    """

    def __init__(self, message: str, *, topic: str, partition: int) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition


def _answered(what: str, code: int, detail: str) -> str:
    return f"{what}: the node answered {name_of(code)}" + (f": {detail}" if detail else "")


class RequestRefused(ClientError):
    """A node answered with an error that the client does not retry. `code` is the protocol's number."""

    def __init__(self, what: str, code: int, *, outcome: Outcome = "no", detail: str = "") -> None:
        super().__init__(_answered(what, code, detail), outcome=outcome)
        self.code = code


class RefusedForNow(Retriable):
    """A node answered with an error that passes: another leader, an election. `code` is the protocol's
    number.
    """

    def __init__(self, what: str, code: int, *, outcome: Outcome = "no", detail: str = "") -> None:
        super().__init__(_answered(what, code, detail), outcome=outcome)
        self.code = code


class DeadlineExceeded(ClientError, TimeoutError):
    """The call's deadline passed; `__cause__` is what went wrong last. Nothing of it goes on; but a record
    whose ack was waited for may still be delivered, and `result()` be asked again.
    """


class NotConnected(DeadlineExceeded):
    """No bootstrap address answered in time; the message lists each address and why."""


class UnsupportedNode(ClientError):
    """What answered does not speak the requests that this client needs: it is no Kafka broker, or too old a
    one.
    """


class WrongCluster(ClientError):
    """A node that belongs to another cluster answered; check the bootstrap and advertised addresses."""


class UnknownTopic(ClientError):
    """The cluster has no such topic; declare it at its nodes or mend the name."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic!r} does not exist in this cluster; check its name or declare it")
        self.topic = topic


class UnknownPartition(ClientError, ValueError):
    """The topic has no partition of that number."""

    def __init__(self, topic: str, partition: int, count: int) -> None:
        super().__init__(f"topic {topic!r} has partitions 0 to {count - 1}, not {partition}")
        self.topic = topic
        self.partition = partition


class MessageTooLarge(ClientError, ValueError):
    """A record or batch exceeds a limit; send less at once, or raise `batch_bytes_max` here and at the
    nodes.
    """


class DeliveryFailed(ClientError):
    """Records were given up; `__cause__` is the last error, `outcome` whether they may be in the log."""

    def __init__(self, message: str, *, topic: str, partition: int, count: int, outcome: Outcome) -> None:
        super().__init__(message, outcome=outcome)
        self.topic = topic
        self.partition = partition
        self.count = count


class OutOfOrderSequence(DeliveryFailed):
    """The leader misses batches that it had acknowledged to this producer: report it, records may be lost."""


class OffsetOutOfRange(ClientError, errors.OffsetOutOfRange):
    """The asked offset is not in the partition; what is there lies in [start_offset, end_offset)."""

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        start_offset: int,
        end_offset: int,
        *,
        mend: str = "Seek to an offset in it, to 'earliest' or to 'latest', or choose "
        "on_out_of_range='earliest' or 'latest'",
    ) -> None:
        why = (
            "what came before the start was removed by retention or delete-records"
            if offset < start_offset
            else "nothing was written there yet, or it was never committed"
        )
        errors.OffsetOutOfRange.__init__(
            self,
            f"offset {offset} of {topic}-{partition} is not in the log, which holds {start_offset} to "
            f"{end_offset}: {why}. {mend}",
            offset=offset,
            start_offset=start_offset,
            end_offset=end_offset,
        )
        self.topic = topic
        self.partition = partition
