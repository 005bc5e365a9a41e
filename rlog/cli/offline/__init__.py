"""Reading a data directory from outside: of a node or of an embedded log, running or not.

Nothing is changed, and no lock is taken: files are opened for reading only (disk.py), so that this works on a
directory in use, on a copy, and without the right to write.

disk.py        files, read-only          segments.py    the walk over one segment's batches
directory.py   format, meta, watermarks  partition.py   the verdict on one partition
findings.py    what is wrong, and where  dumping.py     batches and records, one by one
"""
