"""An in-memory disk that behaves as badly as a real one may, and deterministically so.

    disk = MemoryDisk(Random(1))
    storage = Storage.open(Vfs.of(disk), "/data", …)
    disk.power_cut()                 # keeps, loses or tears whatever was not synced
    storage = Storage.open(Vfs.of(disk), "/data", …)

What is modelled. Content is kept in sectors of 512 bytes; a sector is written as a whole or not at all, and
rewriting one never harms what it held before (the assumption of SAFETY 19). Each write, size change and name
change is an *effect* that stays unsynced until fsync (of the file: its content and size; of the directory:
its names). At a power cut every unsynced sector keeps any one of its versions, every file any of its
sizes, and every name change happened or did not, independently: so any subset, in any order, of unsynced
effects.

`kill` ends the process: descriptors and locks go, the page cache stays. A failed fdatasync drops its effects
but leaves the pages readable and clean, as Linux does: a second fdatasync succeeds, and the bytes are gone
after a power cut (SAFETY 15).

Not modelled: sizes of directories, links, more than one process, and reads that fail unless told to.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

SECTOR_BYTES = 512
ZERO_SECTOR = bytes(SECTOR_BYTES)


class Disk(Protocol):
    """What `Vfs.of` calls. All raise OSError."""

    def open(self, path: str, new: bool) -> int: ...
    def close(self, fd: int) -> None: ...
    def pwrite(self, fd: int, data: bytes, offset: int) -> int: ...
    def pread(self, fd: int, length: int, offset: int) -> bytes: ...
    def fdatasync(self, fd: int) -> None: ...
    def fsync(self, fd: int) -> None: ...
    def size(self, fd: int) -> int: ...
    def fallocate(self, fd: int, length: int) -> None: ...
    def rename(self, source: str, target: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def mkdir(self, path: str) -> None: ...
    def fsync_dir(self, path: str) -> None: ...
    def lock(self, path: str) -> int: ...
    def listdir(self, path: str) -> list[str]: ...


@dataclass(slots=True)
class Fault:
    """Let an operation fail: the first `times` ones named `operation` on a path that contains `path`, after
    `skip` others of them."""

    operation: str
    errno: int
    path: str = ""
    skip: int = 0
    times: int = 1

    def strikes(self, operation: str, path: str) -> bool:
        if operation != self.operation or self.path not in path or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class _File:
    """content, size: as a process sees them. disk, disk_size: what surely survives a power cut.
    versions, sizes: unsynced ones, oldest first."""

    __slots__ = ("content", "disk", "disk_size", "size", "sizes", "versions")

    def __init__(self) -> None:
        self.content: dict[int, bytes] = {}
        self.size = 0
        self.disk: dict[int, bytes] = {}
        self.disk_size = 0
        self.versions: dict[int, list[bytes]] = {}
        self.sizes: list[int] = []

    def write(self, data: bytes, offset: int) -> None:
        end = offset + len(data)
        if end > self.size:
            self.resize(end)
        position = offset
        while position < end:
            sector, start = divmod(position, SECTOR_BYTES)
            stop = min(SECTOR_BYTES, end - sector * SECTOR_BYTES)
            piece = data[position - offset : position - offset + stop - start]
            if stop - start < SECTOR_BYTES:
                old = self.content.get(sector, ZERO_SECTOR)
                piece = old[:start] + piece + old[stop:]
            self.content[sector] = piece
            self.versions.setdefault(sector, []).append(piece)
            position += stop - start

    def resize(self, size: int) -> None:
        self.size = size
        self.sizes.append(size)

    def empty(self) -> None:
        for sector in self.content:
            self.versions.setdefault(sector, []).append(ZERO_SECTOR)
        self.content.clear()
        self.resize(0)

    def read(self, length: int, offset: int) -> bytes:
        length = max(0, min(length, self.size - offset))
        first, last = offset // SECTOR_BYTES, (offset + length - 1) // SECTOR_BYTES
        data = bytearray((last - first + 1) * SECTOR_BYTES)
        sectors = range(first, last + 1)
        for sector in sectors if len(sectors) < len(self.content) else self.content:
            if first <= sector <= last and sector in self.content:
                start = (sector - first) * SECTOR_BYTES
                data[start : start + SECTOR_BYTES] = self.content[sector]
        start = offset - first * SECTOR_BYTES
        return bytes(data[start : start + length])

    def sync(self) -> None:
        for sector, versions in self.versions.items():
            self.disk[sector] = versions[-1]
        self.disk_size = self.size
        self.forget_unsynced()

    def forget_unsynced(self) -> None:
        self.versions.clear()
        self.sizes.clear()

    def choices(self) -> list[int]:
        """How many outcomes each unsynced effect has, in a fixed order."""
        counts = [len(versions) + 1 for versions in self.versions.values()]
        return [*counts, len(self.sizes) + 1] if self.sizes else counts

    def lose_power(self, choose: Callable[[int], int]) -> int:
        """Keep the chosen version of everything unsynced; returns how many newest versions are lost."""
        lost = 0
        for sector, versions in self.versions.items():
            kept = choose(len(versions) + 1)
            lost += kept < len(versions)
            if kept:
                self.disk[sector] = versions[kept - 1]
        if self.sizes:
            kept = choose(len(self.sizes) + 1)
            lost += kept < len(self.sizes)
            if kept:
                self.disk_size = self.sizes[kept - 1]
        self.forget_unsynced()
        self.size = self.disk_size
        beyond = -(-self.size // SECTOR_BYTES)
        self.disk = {sector: data for sector, data in self.disk.items() if sector < beyond}
        self.content = dict(self.disk)
        return lost

    def copy(self) -> "_File":
        twin = _File()
        twin.content, twin.size = dict(self.content), self.size
        twin.disk, twin.disk_size = dict(self.disk), self.disk_size
        twin.versions = {sector: list(versions) for sector, versions in self.versions.items()}
        twin.sizes = list(self.sizes)
        return twin


@dataclass(frozen=True, slots=True)
class _NameChange:
    """`node` gets `name` (None: nobody does); `removed`: the name it had before, when renamed."""

    name: str
    node: "_Node | None"
    removed: str = ""

    def apply(self, names: "dict[str, _Node]") -> None:
        if self.node is None:
            names.pop(self.name, None)
            return
        if self.removed and names.get(self.removed) is self.node:
            del names[self.removed]
        names[self.name] = self.node


class _Directory:
    """names as a process sees them, disk as they survive, changes: unsynced ones, oldest first."""

    __slots__ = ("changes", "disk", "names")

    def __init__(self) -> None:
        self.names: dict[str, _Node] = {}
        self.disk: dict[str, _Node] = {}
        self.changes: list[_NameChange] = []

    def change(self, change: _NameChange) -> None:
        change.apply(self.names)
        self.changes.append(change)

    def sync(self) -> None:
        self.disk = dict(self.names)
        self.changes.clear()

    def choices(self) -> list[int]:
        return [2] * len(self.changes)

    def lose_power(self, choose: Callable[[int], int]) -> int:
        lost = 0
        for change in self.changes:
            if choose(2):
                change.apply(self.disk)
            else:
                lost += 1
        self.changes.clear()
        self.names = dict(self.disk)
        return lost


_Node = _File | _Directory


class MemoryDisk:
    """The disk of one machine, on which one process at a time runs. Deterministic for a seed.

    operations: how many changing operations were done; `cut_at` ends the power just before that one, counted
    from 0: it and everything after it fails, until `power_cut()`.
    faults: operations that fail. capacity_bytes: what all files together may have; writes then end short.
    before: called with (operation, path) before each changing operation.
    """

    def __init__(self, random: Random | None = None, *, capacity_bytes: int | None = None) -> None:
        self.operations = 0
        self.cut_at: int | None = None
        self.faults: list[Fault] = []
        self.capacity_bytes = capacity_bytes
        self.before: Callable[[str, str], None] | None = None
        self._random = random or Random(0)
        self._root = _Directory()
        self._open: dict[int, tuple[_File, str]] = {}
        self._locks: dict[int, _File] = {}
        self._next_fd = 3

    # ---- power and processes

    def kill(self) -> None:
        """The process dies: its descriptors and locks are gone, the page cache stays."""
        self._open.clear()
        self._locks.clear()

    def unsynced(self) -> list[int]:
        """How many outcomes each unsynced effect has: what `choices` of power_cut() ranges over."""
        return [count for node in self._nodes() for count in node.choices()]

    def power_cut(self, choices: Sequence[int] | None = None) -> int:
        """Lose power and get it back: each unsynced effect has a random outcome, or the one in `choices`.

        A file or directory nobody names any more is gone. Returns how many effects were lost.
        """
        self.kill()
        self.cut_at = None
        if choices is None:
            lost = sum(node.lose_power(self._random.randrange) for node in self._nodes())
        else:
            given = iter(choices)
            lost = sum(node.lose_power(lambda _: next(given)) for node in self._nodes())
        return lost

    def _nodes(self) -> list[_Node]:
        """Every file and directory that has a name, had one, or may get one, each once, in a fixed order."""
        found: dict[int, _Node] = {}
        left: list[_Node] = [self._root]
        while left:
            node = left.pop()
            if id(node) in found:
                continue
            found[id(node)] = node
            if isinstance(node, _Directory):
                changed = [change.node for change in node.changes if change.node is not None]
                left += [*node.names.values(), *node.disk.values(), *changed]
        return list(found.values())

    def copy(self) -> "MemoryDisk":
        """A disk in the same state, without processes, faults or power cuts to come."""
        twins: dict[int, _Node] = {}
        nodes = self._nodes()
        for node in nodes:
            twins[id(node)] = node.copy() if isinstance(node, _File) else _Directory()
        for node in nodes:
            twin = twins[id(node)]
            if isinstance(node, _Directory) and isinstance(twin, _Directory):
                twin.names = {name: twins[id(child)] for name, child in node.names.items()}
                twin.disk = {name: twins[id(child)] for name, child in node.disk.items()}
                twin.changes = [
                    _NameChange(change.name, change.node and twins[id(change.node)], change.removed)
                    for change in node.changes
                ]
        disk = MemoryDisk(Random(self._random.getrandbits(64)), capacity_bytes=self.capacity_bytes)
        root = twins[id(self._root)]
        assert isinstance(root, _Directory)
        disk._root = root
        return disk

    # ---- looking at files and damaging them, from outside

    def files(self) -> Iterator[tuple[str, int]]:
        """(path, size in bytes) of every file, sorted by path."""
        left: list[tuple[str, _Node]] = [("", self._root)]
        found = []
        while left:
            path, node = left.pop()
            if isinstance(node, _File):
                found.append((path, node.size))
            else:
                left += [(f"{path}/{name}", child) for name, child in node.names.items()]
        return iter(sorted(found))

    def contents(self, path: str) -> bytes:
        file = self._file(path)
        return file.read(file.size, 0)

    def flip(self, path: str, bit: int) -> None:
        """Flip one bit, counted from the start of the file, on the disk and in the page cache."""
        file = self._file(path)
        sector, inside = divmod(bit, SECTOR_BYTES * 8)
        for content in (file.content, file.disk):
            data = bytearray(content.get(sector, ZERO_SECTOR))
            data[inside // 8] ^= 1 << inside % 8
            content[sector] = bytes(data)

    def shorten(self, path: str, size: int) -> None:
        """Truncate a file, on the disk and in the page cache."""
        file = self._file(path)
        file.sync()
        file.size = file.disk_size = size
        sectors, rest = divmod(size, SECTOR_BYTES)
        for content in (file.content, file.disk):
            for sector in [sector for sector in content if sector >= sectors + (rest > 0)]:
                del content[sector]
            if rest and sectors in content:
                content[sectors] = content[sectors][:rest].ljust(SECTOR_BYTES, b"\0")

    # ---- the functions of the table (Disk)

    def open(self, path: str, new: bool) -> int:
        if new:
            self._operation("open", path)
            directory, name = self._parent(path)
            found = directory.names.get(name)
            if found is None:
                directory.change(_NameChange(name, _File()))
            elif isinstance(found, _File):
                found.empty()
        else:
            self._fail("open", path)
        return self._descriptor(self._file(path), path)

    def close(self, fd: int) -> None:
        """A descriptor of a process that was killed is ignored: whoever held it is still being forgotten."""
        self._open.pop(fd, None)
        self._locks.pop(fd, None)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        file, path = self._opened(fd)
        self._operation("pwrite", path)
        room = self._room(file, offset, len(data))
        if room <= 0 < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        file.write(data[:room], offset)
        return room

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        file, path = self._opened(fd)
        self._fail("pread", path)
        return file.read(length, offset)

    def fdatasync(self, fd: int) -> None:
        self._sync("fdatasync", fd)

    def fsync(self, fd: int) -> None:
        self._sync("fsync", fd)

    def size(self, fd: int) -> int:
        return self._opened(fd)[0].size

    def fallocate(self, fd: int, length: int) -> None:
        file, path = self._opened(fd)
        self._operation("fallocate", path)
        if self.capacity_bytes is not None and self._used() + length - file.size > self.capacity_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if length > file.size:
            file.resize(length)

    def rename(self, source: str, target: str) -> None:
        self._operation("rename", source)
        node = self._node(source)
        directory, name = self._parent(target)
        if self._parent(source)[0] is not directory:
            raise OSError(errno.EXDEV, "renames stay in their directory", source)
        directory.change(_NameChange(name, node, removed=source.rpartition("/")[2]))

    def unlink(self, path: str) -> None:
        self._operation("unlink", path)
        self._file(path)
        directory, name = self._parent(path)
        directory.change(_NameChange(name, None))

    def mkdir(self, path: str) -> None:
        self._operation("mkdir", path)
        directory, name = self._parent(path)
        if name in directory.names:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        directory.change(_NameChange(name, _Directory()))

    def fsync_dir(self, path: str) -> None:
        self._operation("fsync_dir", path)
        self._directory(path).sync()

    def lock(self, path: str) -> int:
        directory, name = self._parent(path)
        if name not in directory.names:
            directory.change(_NameChange(name, _File()))
        file = self._file(path)
        if any(held is file for held in self._locks.values()):
            raise OSError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), path)
        fd = self._descriptor(file, path)
        self._locks[fd] = file
        return fd

    def listdir(self, path: str) -> list[str]:
        return sorted(self._directory(path).names)

    # ---- inside

    def _operation(self, operation: str, path: str) -> None:
        """One changing operation is about to happen."""
        if self.before is not None:
            self.before(operation, path)
        if self.cut_at is not None and self.operations >= self.cut_at:
            raise OSError(errno.EIO, "the power is off", path)
        self.operations += 1
        self._fail(operation, path)

    def _fail(self, operation: str, path: str) -> None:
        for fault in self.faults:
            if fault.strikes(operation, path):
                raise OSError(fault.errno, os.strerror(fault.errno), path)

    def _sync(self, operation: str, fd: int) -> None:
        file, path = self._opened(fd)
        try:
            self._operation(operation, path)
        except OSError:
            if self.cut_at is None or self.operations < self.cut_at:
                file.forget_unsynced()  # SAFETY 15: clean, readable, and not on the disk
            raise
        file.sync()

    def _room(self, file: _File, offset: int, length: int) -> int:
        """How many bytes of a write fit; one inside the file always does."""
        if self.capacity_bytes is None or offset + length <= file.size:
            return length
        size_max = file.size + max(0, self.capacity_bytes - self._used())
        return min(length, size_max - offset)

    def _used(self) -> int:
        return sum(size for _, size in self.files())

    def _descriptor(self, file: _File, path: str) -> int:
        self._next_fd += 1
        self._open[self._next_fd] = file, path
        return self._next_fd

    def _opened(self, fd: int) -> tuple[_File, str]:
        opened = self._open.get(fd)
        if opened is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return opened

    def _node(self, path: str) -> _Node:
        node: _Node = self._root
        for name in path.split("/"):
            if not name:
                continue
            child = node.names.get(name) if isinstance(node, _Directory) else None
            if child is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            node = child
        return node

    def _file(self, path: str) -> _File:
        node = self._node(path)
        if not isinstance(node, _File):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return node

    def _directory(self, path: str) -> _Directory:
        node = self._node(path)
        if not isinstance(node, _Directory):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return node

    def _parent(self, path: str) -> tuple[_Directory, str]:
        directory, _, name = path.rpartition("/")
        return self._directory(directory), name
