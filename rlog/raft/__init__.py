"""The consensus core: pure decisions about generations and offsets. No I/O, no clock, no payload bytes.

replica.py      the dispatcher: one input in, effects out   state.py            all that a replica knows, and
effects.py      what is to be done, in order                                    the invariants that bind it
messages.py     what replicas say to each other             quorum.py           counting voters
generation.py   an old leader is talking                    election.py         who leads?
heartbeat.py    the leader lives                            replication.py      how records get there
progress.py     what a leader knows of a follower           probing.py          where do two logs agree?
log_start.py    what is deleted                             high_water_mark.py  when is it committed?
"""
