"""One node of a cluster: the only place where consensus, storage, connections and clients meet.

the node        node.py              its parts, ticks, timers and end
                process.py           as a process: uvloop, real files, disk threads, signals
                env.py               the seam between the two, and the simulation's
                identity.py          who the nodes are, and from when on they may vote
                peers.py             connections to the other nodes
                observed.py          as the admin port shows it
a partition     partition.py         what clients ask of it, and how it answers
                driver.py            what consensus decides, carried out in order
                flusher.py           group flush: one job in flight per log
                acknowledgements.py  who waits for which commit
                hwm_waits.py         readers that wait for its high-water mark
                append_clock.py      the time that a leader stamps
                deletion.py          its oldest records go, by request or by retention
                batch_checks.py      what it takes, and what it serves
                commit_timer.py      from append to commit
                leadership.py        who led, who leads, and why that changed
clients         kafka_server.py      listens, and gives each request to its handler
                kafka_connection.py  one connection, and the bounds of all of them
                serving.py           what the handlers need of a node
                produce.py, fetch.py, list_offsets.py, delete_records.py, metadata.py   the handlers
"""
