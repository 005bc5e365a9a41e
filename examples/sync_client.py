"""The client without `async`: `python examples/sync_client.py HOST:PORT`, topic `orders`."""

import sys
from itertools import islice

import rlog.sync

with rlog.sync.connect(sys.argv[1]) as cluster:
    with cluster.producer("orders", compression="zstd") as producer:
        # `send` returns at once, `result()` waits: many are under way together.
        acks = [producer.send(b"order %d" % number, key=b"42") for number in range(1000)]
        receipts = [ack.result() for ack in acks]
        first, last = receipts[0], receipts[-1]
        print("flushed by nodes", last.flushed_by, "in generation", last.generation)

        values = [b"order %d" % number for number in range(1000, 11_000)]
        bulk = producer.send_many(values, partition=first.partition).result()
        print(bulk.count, "more from offset", bulk.first_offset)

    with cluster.consumer("orders", partition=first.partition, start=first.offset) as consumer:
        for record in islice(consumer, 3):
            print(record.offset, record.key, record.value)
        count = 3
        while consumer.lag != 0:  # None until the leader has answered
            count += len(consumer.values())
        print(count, "records read, up to offset", consumer.position(first.partition))
