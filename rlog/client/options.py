"""What a producer and a consumer are told, checked once; errors name the option and the mend."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

from rlog.client.consumer import ConsumerSettings
from rlog.client.fetcher import FETCH_BYTES_MAX
from rlog.client.partition_queue import ProducerSettings
from rlog.client.positions import INT64_MAX, Start, check_start
from rlog.client.settings import INT32_MAX, require_between, require_positive
from rlog.errors import ConfigurationError
from rlog.records import Compression

Acks = Literal["all", "leader", "none"]

MAX_IN_FLIGHT: Final = 5  # leaders remember this many batches of a producer (KIP-98)
ON_THE_WIRE: Final[dict[Acks, int]] = {"all": -1, "leader": 1, "none": 0}
# Readers take no more of one batch (_core.decode_records), and the smallest record takes this much.
BATCH_BYTES_MOST: Final = 64 * 1024 * 1024
BATCH_BYTES_LEAST: Final = 68
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
    require_between("batch_bytes_max", batch_bytes_max, BATCH_BYTES_LEAST, BATCH_BYTES_MOST)
    require_positive("delivery_timeout_ms", delivery_timeout_ms)
    require_positive("buffer_bytes_max", buffer_bytes_max, at_most=INT64_MAX)
    if buffer_bytes_max < batch_bytes_max:
        raise ConfigurationError("buffer_bytes_max is less than batch_bytes_max; make it larger")
    require_between("linger_ms", linger_ms, 0, INT32_MAX)
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
    require_positive("fetch_bytes_max", settings.fetch_bytes_max, at_most=FETCH_BYTES_MAX)
    require_positive("prefetch_bytes_max", settings.prefetch_bytes_max, at_most=INT64_MAX)
    require_positive("max_wait_ms", settings.max_wait_ms)
    require_positive("stall_timeout_ms", settings.stall_timeout_ms)
    _one_of("on_out_of_range", settings.on_out_of_range, POLICIES)


def assignment(
    partition: int | Sequence[int] | None, start: Start | Mapping[int, Start]
) -> tuple[int, ...] | None:
    """The partitions to read, None for all. Raises ConfigurationError."""
    partitions = (partition,) if isinstance(partition, int | str) else partition
    if isinstance(start, Mapping):
        if partitions is not None and set(partitions) != set(start):
            raise ConfigurationError(
                f"start names partitions {sorted(start)} and partition names {sorted(partitions)}: "
                f"leave partition out, a mapping of starts says which to read"
            )
        partitions = tuple(start)
    for number in partitions or ():
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise ConfigurationError(f"partition {number!r} is no number of a partition: 0, 1, 2 ...")
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
