"""Storage: the log of one partition, and the data directory that holds many. It knows nothing of consensus.

one log         log.py          append, cut, trim, read, and the jobs that bring it to disk
                rounds.py       what one write and flush carries, and what its completion proves
                short_way.py    the same for one appender that waits
                tail.py         the recent records, in memory
                reader.py       reading: memory first, then segments, each batch checked
                time_search.py  the first record at or after a moment
                unreadable.py   what an error of a read says: damage, or that it cannot be had now
                segment.py      segment files and their index
                producers.py    which batches of idempotent producers are there already
what goes       cutting.py      the tail that a leader's log contradicts
                prefix.py       the beginning that nobody needs
                anchor.py       what stands for it
                retention.py    what a log's settings let go
the directory   storage.py      lock, format, and the logs in it
                meta.py         what must never be forgotten, in two copies
                watermarks.py   how far each log is known to be flushed
                recovery.py     what a log is after a crash, judged by the evidence
                directory.py    is a directory fit to hold data?
                settings.py     sizes
the format      format.py       batches in plain Python: what the native codec is checked against
                worked_bytes.py examples, as docs/format.md shows them
"""
