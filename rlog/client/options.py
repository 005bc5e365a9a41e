"""What a producer and a consumer are told, checked once; errors name the option and the mend."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

from rlog.client.consumer import ConsumerSettings
from rlog.client.partition_queue import ProducerSettings
from rlog.client.positions import Start, check_start
from rlog.client.settings import require_positive
from rlog.errors import ConfigurationError
from rlog.records import Compression

Acks = Literal["all", "leader", "none"]

MAX_IN_FLIGHT: Final = 5  # leaders remember this many batches of a producer (KIP-98)
ON_THE_WIRE: Final[dict[Acks, int]] = {"all": -1, "leader": 1, "none": 0}
COMPRESSIONS: Final[tuple[str, ...]] = get_args(Compression)
POLICIES: Final = ("raise", "earliest", "latest")


def producer_settings(
    *,
    acks: Acks,
    idempotent: bool,
    linger_ms: int,
    compression: Compression,
    batch_bytes_max: int,
    buffer_bytes_max: int,
    delivery_timeout_ms: int,
    max_in_flight: int,
) -> ProducerSettings:
    """See `Cluster.producer`. Raises ConfigurationError."""
    _one_of("acks", acks, tuple(ON_THE_WIRE))
    _one_of("compression", compression, COMPRESSIONS)
    if idempotent and acks != "all":
        raise ConfigurationError(
            f"an idempotent producer needs acks='all', not acks={acks!r}: keep acks='all', or say "
            f"idempotent=False and accept that records may be lost, repeated or reordered"
        )
    require_positive("max_in_flight", max_in_flight)
    if idempotent and max_in_flight > MAX_IN_FLIGHT:
        raise ConfigurationError(
            f"an idempotent producer needs max_in_flight of 1 to {MAX_IN_FLIGHT}, not {max_in_flight}: "
            f"leaders remember its last {MAX_IN_FLIGHT} batches"
        )
    require_positive("batch_bytes_max", batch_bytes_max)
    require_positive("delivery_timeout_ms", delivery_timeout_ms)
    if buffer_bytes_max < batch_bytes_max:
        raise ConfigurationError("buffer_bytes_max is less than batch_bytes_max; make it larger")
    if linger_ms < 0:
        raise ConfigurationError(f"linger_ms is {linger_ms}; it must be at least 0")
    return ProducerSettings(
        acks=ON_THE_WIRE[acks],
        is_idempotent=idempotent,
        linger_ms=linger_ms,
        compression=compression,
        batch_bytes_max=batch_bytes_max,
        buffer_bytes_max=buffer_bytes_max,
        delivery_timeout_ms=delivery_timeout_ms,
        max_in_flight=max_in_flight,
    )


def check_consumer(settings: ConsumerSettings) -> None:
    """See `Cluster.consumer`. Raises ConfigurationError."""
    for name in ("fetch_bytes_max", "prefetch_bytes_max", "max_wait_ms", "stall_timeout_ms"):
        require_positive(name, getattr(settings, name))
    _one_of("on_out_of_range", settings.on_out_of_range, POLICIES)


def assignment(
    partition: int | Sequence[int] | None, start: Start | Mapping[int, Start]
) -> tuple[int, ...] | None:
    """The partitions to read, None for all. Raises ConfigurationError."""
    partitions = (partition,) if isinstance(partition, int) else partition
    if isinstance(start, Mapping):
        if partitions is not None and set(partitions) != set(start):
            raise ConfigurationError(
                f"start names partitions {sorted(start)} and partition names {sorted(partitions)}: "
                f"leave partition out, a mapping of starts says which to read"
            )
        partitions = tuple(start)
    for each in start.values() if isinstance(start, Mapping) else (start,):
        check_start(each)
    if partitions is None:
        return None
    if not partitions or len(set(partitions)) != len(partitions):
        raise ConfigurationError(f"partition={list(partitions)} must name one or more partitions, each once")
    return tuple(partitions)


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}")
