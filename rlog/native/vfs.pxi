# The table of file functions: every file access of the log goes through one.
#
# Each function returns a value >= 0, or -errno. The system's functions run without the GIL. A Vfs made by
# `Vfs.of(target)` calls the same-named methods of a Python object instead (the in-memory disk, fault
# injectors), so the real segment, meta and recovery code runs under simulated power cuts.

import os as _os

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t _sys_pwritev "pwritev"(int fd, const iovec* parts, int count, int64_t offset)

cdef extern from "<sys/file.h>" nogil:
    int _sys_flock "flock"(int fd, int operation)
    enum:
        LOCK_EX
        LOCK_NB
        LOCK_UN

cdef extern from "<sys/stat.h>" nogil:
    struct stat_t "stat":
        int64_t st_size
    int _sys_fstat "fstat"(int fd, stat_t* status)
    int _sys_mkdir "mkdir"(const char* path, unsigned int mode)

cdef extern from "<fcntl.h>" nogil:
    enum:
        O_RDWR
        O_RDONLY
        O_CREAT
        O_TRUNC
        O_CLOEXEC
        O_DIRECTORY
    int _sys_open "open"(const char* path, int flags, ...)
    int _sys_fallocate "posix_fallocate"(int fd, int64_t offset, int64_t length)
    int POSIX_FADV_DONTNEED
    int _sys_fadvise "posix_fadvise"(int fd, int64_t offset, int64_t length, int advice)

cdef extern from "<unistd.h>" nogil:
    int _sys_close "close"(int fd)
    ssize_t _sys_pread "pread"(int fd, void* buffer, size_t length, int64_t offset)
    int _sys_fdatasync "fdatasync"(int fd)
    int _sys_fsync "fsync"(int fd)
    int _sys_unlink "unlink"(const char* path)

cdef extern from "<stdio.h>" nogil:
    int _sys_rename "rename"(const char* source, const char* target)

cdef enum:
    OPEN_EXISTING = 0
    OPEN_NEW = 1         # created, or emptied when it exists (left over from a crash)

ctypedef int64_t (*path_function)(void* context, const char* path) noexcept nogil
ctypedef int64_t (*file_function)(void* context, int fd) noexcept nogil

cdef struct VfsTable:
    void* context
    int64_t (*open)(void* context, const char* path, int mode) noexcept nogil
    int64_t (*pwritev)(void* context, int fd, const iovec* parts, int count, int64_t offset) noexcept nogil
    int64_t (*pread)(void* context, int fd, void* buffer, size_t length, int64_t offset) noexcept nogil
    int64_t (*rename)(void* context, const char* source, const char* target) noexcept nogil
    file_function close
    file_function fdatasync
    file_function fsync
    file_function size
    int64_t (*fallocate)(void* context, int fd, int64_t length) noexcept nogil
    path_function unlink
    path_function mkdir
    path_function fsync_dir
    path_function lock
    file_function uncache


# ---- the system's functions

cdef inline int64_t _result(int64_t value) noexcept nogil:
    return value if value >= 0 else -errno


cdef int64_t system_open(void* context, const char* path, int mode) noexcept nogil:
    if mode == OPEN_NEW:
        return _result(_sys_open(path, O_RDWR | O_CLOEXEC | O_CREAT | O_TRUNC, <unsigned int>0o644))
    return _result(_sys_open(path, O_RDWR | O_CLOEXEC))


cdef int64_t system_pwritev(void* context, int fd, const iovec* parts, int count, int64_t offset) noexcept nogil:
    return _result(_sys_pwritev(fd, parts, count, offset))


cdef int64_t system_pread(void* context, int fd, void* buffer, size_t length, int64_t offset) noexcept nogil:
    return _result(_sys_pread(fd, buffer, length, offset))


cdef int64_t system_rename(void* context, const char* source, const char* target) noexcept nogil:
    return _result(_sys_rename(source, target))


cdef int64_t system_close(void* context, int fd) noexcept nogil:
    return _result(_sys_close(fd))


cdef int64_t system_fdatasync(void* context, int fd) noexcept nogil:
    return _result(_sys_fdatasync(fd))


cdef int64_t system_fsync(void* context, int fd) noexcept nogil:
    return _result(_sys_fsync(fd))


cdef int64_t system_size(void* context, int fd) noexcept nogil:
    cdef stat_t status
    if _sys_fstat(fd, &status) < 0:
        return -errno
    return status.st_size


cdef int64_t system_fallocate(void* context, int fd, int64_t length) noexcept nogil:
    return -_sys_fallocate(fd, 0, length)          # posix_fallocate returns the error itself


cdef int64_t system_uncache(void* context, int fd) noexcept nogil:
    _sys_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)    # advice: a file system that cannot take it costs memory only
    return 0


cdef int64_t system_unlink(void* context, const char* path) noexcept nogil:
    return _result(_sys_unlink(path))


cdef int64_t system_mkdir(void* context, const char* path) noexcept nogil:
    return _result(_sys_mkdir(path, 0o755))


cdef int64_t system_fsync_dir(void* context, const char* path) noexcept nogil:
    cdef int fd = _sys_open(path, O_RDONLY | O_CLOEXEC | O_DIRECTORY)
    if fd < 0:
        return -errno
    cdef int64_t result = _result(_sys_fsync(fd))
    _sys_close(fd)
    return result


cdef int64_t system_lock(void* context, const char* path) noexcept nogil:
    """Open (creating) and lock a file for this process alone; the lock ends with the process or the fd."""
    cdef int fd = _sys_open(path, O_RDWR | O_CLOEXEC | O_CREAT, <unsigned int>0o644)
    if fd < 0:
        return -errno
    cdef int64_t result = fd
    if _sys_flock(fd, LOCK_EX | LOCK_NB) < 0:
        result = -errno
        _sys_close(fd)
    return result


# ---- the trampolines to a Python object

cdef int64_t _python_failed(Vfs vfs, BaseException failure) noexcept:
    """An OSError is the disk's answer. Anything else is a bug of the target: kept, to be raised by the caller."""
    if isinstance(failure, OSError) and failure.errno:
        return -<int64_t>failure.errno
    if vfs.bug is None:
        vfs.bug = failure
    return -EIO


cdef int64_t python_open(void* context, const char* path, int mode) noexcept with gil:
    cdef Vfs vfs = <Vfs>context
    try:
        return vfs.target.open(_os.fsdecode(<bytes>path), mode == OPEN_NEW)
    except BaseException as failure:
        return _python_failed(vfs, failure)


cdef int64_t python_pwritev(void* context, int fd, const iovec* parts, int count, int64_t offset) noexcept with gil:
    cdef Vfs vfs = <Vfs>context
    cdef int part
    try:
        data = b"".join(
            [PyBytes_FromStringAndSize(<char*>parts[part].iov_base, parts[part].iov_len) for part in range(count)]
        )
        return vfs.target.pwrite(fd, data, offset)
    except BaseException as failure:
        return _python_failed(vfs, failure)


cdef int64_t python_pread(void* context, int fd, void* buffer, size_t length, int64_t offset) noexcept with gil:
    cdef Vfs vfs = <Vfs>context
    cdef bytes data
    try:
        data = vfs.target.pread(fd, length, offset)
        if <size_t>len(data) > length:
            raise ValueError("pread returned more than was asked for")
        memcpy(buffer, PyBytes_AS_STRING(data), len(data))
        return len(data)
    except BaseException as failure:
        return _python_failed(vfs, failure)


cdef int64_t python_rename(void* context, const char* source, const char* target) noexcept with gil:
    cdef Vfs vfs = <Vfs>context
    try:
        vfs.target.rename(_os.fsdecode(<bytes>source), _os.fsdecode(<bytes>target))
        return 0
    except BaseException as failure:
        return _python_failed(vfs, failure)


cdef int64_t _python_file(void* context, str method, int fd) noexcept:
    cdef Vfs vfs = <Vfs>context
    try:
        value = getattr(vfs.target, method)(fd)
        return 0 if value is None else value
    except BaseException as failure:
        return _python_failed(vfs, failure)


cdef int64_t python_close(void* context, int fd) noexcept with gil:
    return _python_file(context, "close", fd)


cdef int64_t python_fdatasync(void* context, int fd) noexcept with gil:
    return _python_file(context, "fdatasync", fd)


cdef int64_t python_fsync(void* context, int fd) noexcept with gil:
    return _python_file(context, "fsync", fd)


cdef int64_t python_size(void* context, int fd) noexcept with gil:
    return _python_file(context, "size", fd)


cdef int64_t python_fallocate(void* context, int fd, int64_t length) noexcept with gil:
    cdef Vfs vfs = <Vfs>context
    try:
        vfs.target.fallocate(fd, length)
        return 0
    except BaseException as failure:
        return _python_failed(vfs, failure)


cdef int64_t _python_path(void* context, str method, const char* path) noexcept:
    cdef Vfs vfs = <Vfs>context
    try:
        value = getattr(vfs.target, method)(_os.fsdecode(<bytes>path))
        return 0 if value is None else value
    except BaseException as failure:
        return _python_failed(vfs, failure)


cdef int64_t python_unlink(void* context, const char* path) noexcept with gil:
    return _python_path(context, "unlink", path)


cdef int64_t python_mkdir(void* context, const char* path) noexcept with gil:
    return _python_path(context, "mkdir", path)


cdef int64_t python_fsync_dir(void* context, const char* path) noexcept with gil:
    return _python_path(context, "fsync_dir", path)


cdef int64_t python_lock(void* context, const char* path) noexcept with gil:
    return _python_path(context, "lock", path)


cdef int64_t python_uncache(void* context, int fd) noexcept nogil:
    return 0                                       # it changes what is cached, never what is stored


# ---- the classes

@cython.final
@cython.no_gc_clear              # a File of a forgotten cycle is closed through it; its target can be cleared
cdef class Vfs:
    """A table of file functions. Make one with `Vfs.system()` or `Vfs.of(target)`.

    The methods are the blocking way in, for start-up and reads; `DiskJob` is the way that needs no GIL.
    All raise OSError. Paths are str.
    """

    cdef VfsTable table
    cdef object target
    cdef BaseException bug      # what a Python target raised that is no OSError; raised at the next chance

    def __init__(self):
        raise TypeError("use Vfs.system() or Vfs.of(target)")

    @staticmethod
    def system():
        cdef Vfs vfs = Vfs.__new__(Vfs)
        vfs.table = VfsTable(
            NULL, system_open, system_pwritev, system_pread, system_rename, system_close, system_fdatasync,
            system_fsync, system_size, system_fallocate, system_unlink, system_mkdir,
            system_fsync_dir, system_lock, system_uncache,
        )
        return vfs

    @staticmethod
    def of(target):
        cdef Vfs vfs = Vfs.__new__(Vfs)
        vfs.target = target
        vfs.table = VfsTable(
            <void*>vfs, python_open, python_pwritev, python_pread, python_rename, python_close, python_fdatasync,
            python_fsync, python_size, python_fallocate, python_unlink, python_mkdir,
            python_fsync_dir, python_lock, python_uncache,
        )
        return vfs

    cdef int64_t _checked(self, int64_t result, object path) except -1:
        if self.bug is not None:
            bug, self.bug = self.bug, None
            raise bug
        if result < 0:
            raise OSError(-result, _os.strerror(-result), path)
        return result

    def open(self, str path not None, *, bint new=False):
        """Open for reading and writing. `new`: create it, or empty what a crash left there."""
        cdef bytes encoded = _os.fsencode(path)
        cdef const char* name = encoded
        cdef int64_t result
        with nogil:
            result = self.table.open(self.table.context, name, OPEN_NEW if new else OPEN_EXISTING)
        cdef File file = File(self, path)
        file.fd = <int>self._checked(result, path)
        return file

    def rename(self, str source not None, str target not None):
        cdef bytes encoded_source = _os.fsencode(source), encoded_target = _os.fsencode(target)
        cdef const char* source_name = encoded_source
        cdef const char* target_name = encoded_target
        cdef int64_t result
        with nogil:
            result = self.table.rename(self.table.context, source_name, target_name)
        self._checked(result, source)

    cdef int64_t _path(self, path_function function, str path) except -1:
        cdef bytes encoded = _os.fsencode(path)
        cdef const char* name = encoded
        cdef int64_t result
        with nogil:
            result = function(self.table.context, name)
        return self._checked(result, path)

    def unlink(self, str path not None):
        self._path(self.table.unlink, path)

    def mkdir(self, str path not None):
        self._path(self.table.mkdir, path)

    def fsync_dir(self, str path not None):
        self._path(self.table.fsync_dir, path)

    def lock(self, str path not None):
        """Lock the data directory's lock file; BlockingIOError when another process holds it (SAFETY 50)."""
        cdef File file = File(self, path)
        file.fd = <int>self._path(self.table.lock, path)
        return file

    def listdir(self, str path not None):
        """The names in a directory, sorted."""
        if self.target is None:
            return sorted(_os.listdir(path))
        return sorted(self.target.listdir(path))


@cython.final
@cython.no_gc_clear              # or a forgotten cycle would lose `vfs` before the file is closed through it
cdef class File:
    """An open file of a Vfs, or one that a DiskJob will open. Closed when closed or forgotten."""

    cdef Vfs vfs
    cdef int fd                 # -1: not open
    cdef readonly str path

    def __cinit__(self, Vfs vfs not None, str path not None):
        self.vfs = vfs
        self.path = path
        self.fd = -1

    @property
    def is_open(self):
        return self.fd >= 0

    cdef int64_t _descriptor(self) except -1:
        if self.fd < 0:
            raise ValueError(f"{self.path} is not open")
        return self.fd

    def pread(self, Py_ssize_t length, int64_t offset):
        """Up to `length` bytes at `offset`; less only at the end of the file."""
        cdef int fd = <int>self._descriptor()
        cdef bytes data = PyBytes_FromStringAndSize(NULL, length)
        cdef char* into = PyBytes_AS_STRING(data)
        cdef Py_ssize_t filled = 0
        cdef int64_t result = 0
        with nogil:
            while filled < length:
                result = self.vfs.table.pread(
                    self.vfs.table.context, fd, into + filled, length - filled, offset + filled)
                if result == -EINTR:
                    continue
                if result <= 0:
                    break
                filled += result
        self.vfs._checked(result, self.path)
        return data if filled == length else data[:filled]

    def pwrite(self, const uint8_t[::1] data not None, int64_t offset):
        """Write all of `data` at `offset`."""
        cdef int fd = <int>self._descriptor()
        cdef iovec part
        cdef int64_t result = 0
        part.iov_base = <void*>&data[0] if data.shape[0] else NULL
        part.iov_len = data.shape[0]
        with nogil:
            result = write_all(&self.vfs.table, fd, &part, 1, offset)
        self.vfs._checked(result, self.path)

    cdef int64_t _call(self, file_function function) except -1:
        cdef int fd = <int>self._descriptor()
        cdef int64_t result
        with nogil:
            result = function(self.vfs.table.context, fd)
        return self.vfs._checked(result, self.path)

    def fdatasync(self):
        self._call(self.vfs.table.fdatasync)

    def fsync(self):
        self._call(self.vfs.table.fsync)

    def size(self):
        return self._call(self.vfs.table.size)

    def fallocate(self, int64_t length):
        """Reserve `length` bytes that read as zeros; the file has this size afterwards."""
        cdef int fd = <int>self._descriptor()
        cdef int64_t result
        with nogil:
            result = self.vfs.table.fallocate(self.vfs.table.context, fd, length)
        self.vfs._checked(result, self.path)

    def close(self):
        """Idempotent; an error of close() says nothing that fdatasync has not said before."""
        cdef int fd = self.fd
        self.fd = -1
        if fd >= 0:
            with nogil:
                self.vfs.table.close(self.vfs.table.context, fd)

    def unlock(self):
        """Close a file that Vfs.lock() opened, and end its lock now, even should a child that was just forked
        still have a copy of the descriptor: it would hold the lock until it executes or closes it."""
        if self.fd >= 0 and self.vfs.target is None:
            _sys_flock(self.fd, LOCK_UN)
        self.close()

    def __dealloc__(self):
        if self.fd >= 0:
            self.vfs.table.close(self.vfs.table.context, self.fd)


cdef int64_t write_all(VfsTable* table, int fd, iovec* parts, int count, int64_t offset) noexcept nogil:
    """Write every byte of `parts` (consumed), or return -errno. A write of nothing counts as a full disk."""
    cdef int64_t result
    cdef int first = 0
    while first < count:
        if parts[first].iov_len == 0:
            first += 1
            continue
        result = table.pwritev(table.context, fd, parts + first, count - first, offset)
        if result == -EINTR:
            continue
        if result <= 0:
            return result if result < 0 else -ENOSPC
        offset += result
        while result > 0:
            if <size_t>result < parts[first].iov_len:
                parts[first].iov_base = <char*>parts[first].iov_base + result
                parts[first].iov_len -= result
                break
            result -= parts[first].iov_len
            first += 1
    return 0
