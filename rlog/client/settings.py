"""What a client can be told, checked once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

from rlog.errors import ConfigurationError

PORT_DEFAULT: Final = 9092
# Times and sizes travel in 32 bits.
INT32_MAX: Final = 2**31 - 1


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_bootstrap(bootstrap: str | Sequence[str]) -> tuple[Address, ...]:
    """Addresses of ``"host:port,host:port"``, or of a sequence of ``"host:port"``. Port 9092 may be left out;
    an IPv6 address stands in brackets.

    Raises ConfigurationError, which names the part that is wrong.
    """
    parts = bootstrap.split(",") if isinstance(bootstrap, str) else list(bootstrap)
    addresses = [_parse_address(part.strip()) for part in parts if part.strip()]
    if not addresses:
        raise ConfigurationError(
            "bootstrap is empty; give the addresses of one or more nodes, as in 'host:9092'"
        )
    return tuple(dict.fromkeys(addresses))


def _parse_address(text: str) -> Address:
    host, separator, port = text.rpartition(":")
    if text.endswith("]") or not separator:
        host, port = text, str(PORT_DEFAULT)
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_bracketed else host
    if ":" in host and not is_bracketed:
        raise ConfigurationError(
            f"bootstrap address {text!r} has more than one colon; write an IPv6 address in brackets, as in "
            f"'[::1]:9092'"
        )
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigurationError(f"bootstrap address {text!r} is not of the form 'host:port'")
    return Address(host, int(port))


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """All times in milliseconds.

    request_timeout_ms: deadline of every call that has none of its own, and of an answer on the wire.
    connect_timeout_ms: for one attempt to open one connection.
    suspect_after_ms: an answer later than this makes the client ask *another* node who leads now.
    retry_backoff_ms, retry_backoff_max_ms: the pause before the first retry, doubling up to the maximum; each
    pause is drawn from its upper half.
    """

    bootstrap: tuple[Address, ...]
    random: Random
    wall_clock_ms: Callable[[], int]
    client_id: str = "rlog"
    request_timeout_ms: int = 10_000
    connect_timeout_ms: int = 2_000
    suspect_after_ms: int = 400
    retry_backoff_ms: int = 10
    retry_backoff_max_ms: int = 100

    def __post_init__(self) -> None:
        for name in (
            "request_timeout_ms",
            "connect_timeout_ms",
            "suspect_after_ms",
            "retry_backoff_ms",
            "retry_backoff_max_ms",
        ):
            require_positive(name, getattr(self, name))
        if self.retry_backoff_max_ms < self.retry_backoff_ms:
            raise ConfigurationError("retry_backoff_max_ms is less than retry_backoff_ms; make it larger")
        if len(self.client_id.encode()) > 1000:
            raise ConfigurationError("client_id is longer than 1000 bytes; shorten it")


def require_positive(name: str, value: int, *, at_most: int = INT32_MAX) -> None:
    require_between(name, value, 1, at_most)


def require_between(name: str, value: int, least: int, most: int) -> None:
    """Raises ConfigurationError."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigurationError(f"{name} is {value!r}; it must be a whole number from {least} to {most}")
