"""The real file system as a `Disk`, through Python's os functions, with faults on demand.

For tests that want real files and a failing operation: `Vfs.of(SystemDisk())`. Production uses
`Vfs.system()`.
"""

import fcntl
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from rlog.testing.disk import Fault

P = ParamSpec("P")
R = TypeVar("R")


class SystemDisk:
    """faults: operations that fail, as in MemoryDisk. write_bytes_max: a longer write ends short, as it may.

    trace: (operation, path) of what was done, in order.
    """

    def __init__(self, *, write_bytes_max: int | None = None) -> None:
        self.faults: list[Fault] = []
        self.write_bytes_max = write_bytes_max
        self.trace: list[tuple[str, str]] = []
        self._paths: dict[int, str] = {}

    def open(self, path: str, new: bool) -> int:
        create = os.O_CREAT | os.O_TRUNC if new else 0
        return self._remember(
            self._do("open", path, os.open, path, os.O_RDWR | os.O_CLOEXEC | create, 0o644), path
        )

    def close(self, fd: int) -> None:
        if self._paths.pop(fd, None) is not None:
            os.close(fd)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return self._do("pwrite", self._paths[fd], os.pwrite, fd, data[: self.write_bytes_max], offset)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return self._do("pread", self._paths[fd], os.pread, fd, length, offset)

    def fdatasync(self, fd: int) -> None:
        self._do("fdatasync", self._paths[fd], os.fdatasync, fd)

    def fsync(self, fd: int) -> None:
        self._do("fsync", self._paths[fd], os.fsync, fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def fallocate(self, fd: int, length: int) -> None:
        self._do("fallocate", self._paths[fd], os.posix_fallocate, fd, 0, length)

    def rename(self, source: str, target: str) -> None:
        self._do("rename", source, os.rename, source, target)

    def unlink(self, path: str) -> None:
        self._do("unlink", path, os.unlink, path)

    def mkdir(self, path: str) -> None:
        self._do("mkdir", path, os.mkdir, path)

    def fsync_dir(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._do("fsync_dir", path, os.fsync, fd)
        finally:
            os.close(fd)

    def lock(self, path: str) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return self._remember(fd, path)

    def listdir(self, path: str) -> list[str]:
        return os.listdir(path)

    def _remember(self, fd: int, path: str) -> int:
        self._paths[fd] = path
        return fd

    def _do(
        self, operation: str, path: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        for fault in self.faults:
            if fault.strikes(operation, path):
                raise OSError(fault.errno, os.strerror(fault.errno), path)
        result = function(*args, **kwargs)
        self.trace.append((operation, path))
        return result
