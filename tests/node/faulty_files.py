"""The system's files behind `Vfs.of`, with errors on demand."""

import errno
import fcntl
import os
import threading


class FaultyFiles:
    """Set `failing` to a part of a path: from then on every fdatasync of such a file fails with EIO.

    Set `held` to one: its fdatasyncs wait until `release()`. Set `full` to one: the disk has no room for a
    new file of such a path.
    """

    def __init__(self) -> None:
        self.failing: str | None = None
        self.held: str | None = None
        self.full: str | None = None
        self.refusals = 0
        self.failures = 0
        self.paths: dict[int, str] = {}
        self._released = threading.Event()

    def release(self) -> None:
        self.held = None
        self._released.set()

    def open(self, path: str, new: bool) -> int:
        if new and self.full is not None and self.full in path:
            self.refusals += 1
            raise OSError(errno.ENOSPC, "injected")
        fd = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if new else 0), 0o644)
        self.paths[fd] = path
        return fd

    def fdatasync(self, fd: int) -> None:
        path = self.paths[fd]
        if self.failing is not None and self.failing in path:
            self.failures += 1
            raise OSError(errno.EIO, "injected")
        if self.held is not None and self.held in path:
            self._released.wait()
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        self.fdatasync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return os.pread(fd, length, offset)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def fallocate(self, fd: int, length: int) -> None:
        os.posix_fallocate(fd, 0, length)

    def ftruncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def mkdir(self, path: str) -> None:
        os.mkdir(path)

    def listdir(self, path: str) -> list[str]:
        return os.listdir(path)

    def fsync_dir(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    def lock(self, path: str) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        self.paths[fd] = path
        return fd
