"""The identity under which an idempotent producer's batches are told apart (KIP-98)."""

from typing import NamedTuple

from rlog.client.connection import Connection
from rlog.client.errors import RefusedForNow, RequestRefused
from rlog.client.router import Router
from rlog.wire.kafka import apis, codes
from rlog.wire.kafka.init_producer_id import (
    decode_init_producer_id_response,
    encode_init_producer_id_request,
)

# Kafka: a coordinator is loading, unavailable, or elsewhere.
COORDINATOR_CODES = frozenset({14, 15, 16})


class ProducerId(NamedTuple):
    producer_id: int
    epoch: int


async def draw_producer_id(router: Router, deadline: float) -> ProducerId:
    """A fresh id from any node; nobody else has it. Raises DeadlineExceeded, RequestRefused."""
    return await router.ask_any("drawing a producer id", lambda *at: _draw_once(router, *at), deadline)


async def _draw_once(router: Router, connection: Connection, deadline: float) -> ProducerId:
    version = connection.version(apis.INIT_PRODUCER_ID)
    frame = await connection.request(
        lambda correlation: encode_init_producer_id_request(
            correlation, router.settings.client_id, version=version
        ),
        deadline,
    )
    answer = decode_init_producer_id_response(frame)
    if answer.error in codes.RETRIABLE_NOT_PERSISTED or answer.error in COORDINATOR_CODES:
        raise RefusedForNow("drawing a producer id", answer.error)
    if answer.error != codes.NONE:
        raise RequestRefused("drawing a producer id", answer.error)
    return ProducerId(answer.producer_id, answer.producer_epoch)
