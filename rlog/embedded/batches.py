"""From a list of records to the batches that hold it: as few as possible, each at most batch_bytes_max."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, cast

from rlog._core import BatchBuilder
from rlog.embedded.settings import Settings
from rlog.errors import BatchTooLarge
from rlog.records import Headers


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to append, where it is more than a value.

    timestamp_ms: milliseconds since the epoch; that of the whole list when left out.
    """

    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    timestamp_ms: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.headers, tuple | list):  # what can be read but once may have to be read twice
            object.__setattr__(self, "headers", tuple(self.headers))


Value = bytes | NewRecord | None

_NO_HEADERS: Final[Headers] = ()


def batches_of(
    values: Iterable[Value], timestamp_ms: int, settings: Settings, *, atomic: bool
) -> tuple[list[BatchBuilder], int]:
    """The batches, and the timestamp of the last record.

    Raises BatchTooLarge, TypeError, and ValueError for no values.
    """
    if isinstance(values, bytes | str | bytearray):
        raise TypeError(
            f"values are many: a list of bytes, not one {type(values).__name__}; append() takes one"
        )
    items = values if isinstance(values, list | tuple) else list(values)
    if not items:
        raise ValueError("values is empty; append_many needs at least one")
    builders = [settings.builder()]
    try:
        start = 0
        while start < len(items):
            taken = _fill(builders[-1], items, start, timestamp_ms)
            start += taken
            if start < len(items) and not taken:
                if atomic:
                    raise BatchTooLarge(
                        f"{len(items)} records make more than one batch: at least {builders[0].size} bytes",
                        size_bytes=builders[0].size,
                        bytes_max=settings.batch_bytes_max,
                    )
                builders.append(settings.builder())
    except BatchTooLarge as error:
        raise settings.too_large(error) from None
    return builders, _timestamp_of(items[-1], timestamp_ms)


def _timestamp_of(item: Value, timestamp_ms: int) -> int:
    """timestamp_ms: of the list."""
    own = item.timestamp_ms if isinstance(item, NewRecord) else None
    return timestamp_ms if own is None else own


def _fill(
    builder: BatchBuilder, items: "list[Value] | tuple[Value, ...]", start: int, timestamp_ms: int
) -> int:
    """How many items from `start` on it took: 0 when the first of them does not fit."""
    item = items[start]
    if isinstance(item, bytes):
        return builder.append_values(cast("list[bytes]", items), start, timestamp_ms)  # up to another kind
    if item is None:
        return int(builder.append(None, None, _NO_HEADERS, timestamp_ms))
    if isinstance(item, NewRecord):
        own_ms = _timestamp_of(item, timestamp_ms)
        return int(builder.append(item.value, item.key, item.headers, own_ms))
    raise TypeError(f"values[{start}] is neither bytes nor a NewRecord but {type(item).__name__}")
