"""What mypy is to find in a user's program, in the lines marked so."""

import rlog.sync


async def mistakes(cluster: rlog.Cluster, blocking: rlog.sync.Cluster) -> None:
    cluster.producer("orders", acks="some")  # wrong: arg-type
    cluster.producer("orders", compression="bzip2")  # wrong: arg-type
    cluster.consumer("orders", start="yesterday")  # wrong: arg-type
    async with cluster.producer("orders") as producer:
        await producer.send("text")  # wrong: arg-type
        producer.send(b"never awaited")  # wrong: unused-coroutine
        print((await producer.send(b"")).offset)  # wrong: attr-defined
    with blocking.producer("orders") as sender:
        await sender.send(b"")  # wrong: misc
        print(sender.send(b"").result().offsets)  # wrong: attr-defined
    with cluster.consumer("orders") as consumer:  # wrong: attr-defined
        print(consumer)
