"""What an error of a read says about the bytes that were to be read.

Some errors are the disk's own, or the file system's about what it holds: then the bytes are damaged or gone,
and their log is quarantined (SAFETY 19). All others say only that they cannot be had now: no descriptor is
left, no memory, no right. To take those for damage would have a sound log thrown away.
"""

import errno
from typing import Final

from rlog._core import Vfs
from rlog.errors import CorruptBatch, CorruptLog, ReadFailed
from rlog.log.directory import mend_of

DAMAGE: Final = frozenset(
    {
        errno.EIO,
        errno.ENOENT,  # of a file that is the log's
        errno.EUCLEAN,  # a file system's structure is corrupt
        errno.EBADMSG,  # one of its checksums is wrong
        errno.ENODATA,  # the medium, as the block layer says it
        errno.EILSEQ,  # its protection information is wrong
    }
)


def is_damage(error: OSError) -> bool:
    return error.errno in DAMAGE


def unreadable(log: str, offset: int, error: CorruptBatch | OSError, *, name: str) -> CorruptLog | ReadFailed:
    """The error of a log whose record at `offset` was to be read. log: how to call it; name: its own."""
    what = f"{log}: offset {offset} cannot be read: {error}"
    if isinstance(error, OSError) and not is_damage(error):
        return refused(what, error)
    return CorruptLog(what, partition=name, offset=offset)


def refused(what: str, error: OSError) -> ReadFailed:
    return ReadFailed(what + mend_of(error.errno), errno=error.errno or 0)


def read_whole(vfs: Vfs, path: str) -> bytes | None:
    """A small file; None when it is damaged or gone. Raises OSError where that cannot be known."""
    try:
        file = vfs.open(path)
        try:
            return file.pread(file.size(), 0)
        finally:
            file.close()
    except OSError as error:
        if not is_damage(error):
            raise
        return None
