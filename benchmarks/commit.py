"""Commit throughput and depth-one latency of three node processes, through the Python client."""

import asyncio
import os
import time
from dataclasses import dataclass
from statistics import median, quantiles

import rlog

THROUGHPUT_RECORD_BYTES = 100
LATENCY_RECORD_BYTES = 128
CHUNK = 10_000
TOPIC = "bench"


@dataclass(frozen=True, slots=True)
class Latency:
    """Microseconds from `send` to the receipt, one record at a time."""

    p50_us: float
    p99_us: float
    max_us: float


async def throughput(bootstrap: str, *, records: int, runs: int) -> list[float]:
    """Records per second of each run: from the first `send_many` to the last receipt."""
    chunk = [os.urandom(THROUGHPUT_RECORD_BYTES) for _ in range(CHUNK)]
    rates = []
    async with rlog.connect(bootstrap) as cluster, cluster.producer(TOPIC) as producer:
        await (await producer.send_many(chunk, partition=0))
        for _ in range(runs):
            begin = time.perf_counter()
            receipts = [await producer.send_many(chunk, partition=0) for _ in range(records // CHUNK)]
            await asyncio.gather(*receipts)
            rates.append(len(receipts) * CHUNK / (time.perf_counter() - begin))
    return rates


async def latency(bootstrap: str, *, records: int, runs: int) -> Latency:
    """Medians over the runs of each run's percentiles."""
    value = os.urandom(LATENCY_RECORD_BYTES)
    measured = []
    async with rlog.connect(bootstrap) as cluster, cluster.producer(TOPIC) as producer:
        await (await producer.send(value, partition=0))
        for _ in range(runs):
            micros = []
            for _ in range(records):
                begin = time.perf_counter()
                await (await producer.send(value, partition=0))
                micros.append((time.perf_counter() - begin) * 1e6)
            cuts = quantiles(micros, n=100)
            measured.append((cuts[49], cuts[98], max(micros)))
    return Latency(*(median(values) for values in zip(*measured, strict=True)))
