"""The blocking client: `rlog.sync.connect`, with the names and arguments of the async one (`rlog.client`).

    with rlog.sync.connect("127.0.0.1:9092") as cluster:
        with cluster.producer("orders") as producer:
            receipt = producer.send(b"paid", key=b"42").result()
        with cluster.consumer("orders") as consumer:
            for record in consumer:
                ...

What is awaited there returns here; an ack has `result()`. Everything may be used from many threads, but a
consumer is read by one thread at a time. The work is done by the async client, on an event loop in a thread
in the background, one per cluster object (portal.py); around it cluster.py,
producer.py, receipts.py and consumer.py are thin.
"""

from rlog.sync.cluster import Cluster, connect
from rlog.sync.consumer import Consumer
from rlog.sync.producer import Producer
from rlog.sync.receipts import Ack, ListAck

__all__ = ["Ack", "Cluster", "Consumer", "ListAck", "Producer", "connect"]
