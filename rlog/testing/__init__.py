"""Deterministic simulation: whole nodes, real code, in a world that loses, delays, tears, freezes and kills.

The same seed gives the same run, to the byte: `python -m rlog.testing` (sweep.py) runs many.

the world       loop.py         virtual time, in which processes run, freeze and die
                network.py      TCP between hosts, with faults
                transport.py    one end of a connection
                disk.py         a disk that forgets what was not flushed
                system_disk.py  the real file system behind the same interface
                executor.py     disk jobs in virtual time
what runs       cluster.py      machines with nodes
                workload.py     clients, recorded as a history
                janitor.py      deletes the oldest records
                faults.py       what goes wrong, and when
                simulation.py   one run: all of these, then healed
the verdict     invariants.py   what must hold at every step
                checker.py      what must hold in the history
                sweep.py        many seeds, and what they met
beside it       flush_stress.py the disk threads' wake-up, on real threads
"""
