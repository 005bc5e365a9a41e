"""Files, for reading only, as the native log's readers take them."""

import errno
import os
from typing import NoReturn

from rlog._core import Vfs


class ReadOnlyDisk:
    """What `Vfs.of` calls. Whatever would change something raises OSError (EROFS)."""

    def open(self, path: str, new: bool) -> int:
        if new:
            self._refuse()
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return os.pread(fd, length, offset)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def listdir(self, path: str) -> list[str]:
        return os.listdir(path)

    def _refuse(self, *ignored: object) -> NoReturn:
        raise OSError(errno.EROFS, "opened for reading only")

    pwrite = fdatasync = fsync = fallocate = rename = unlink = mkdir = fsync_dir = lock = _refuse


def read_only() -> Vfs:
    return Vfs.of(ReadOnlyDisk())


def read_file(vfs: Vfs, path: str) -> bytes:
    """The whole file. Raises OSError."""
    file = vfs.open(path)
    try:
        return file.pread(file.size(), 0)
    finally:
        file.close()
