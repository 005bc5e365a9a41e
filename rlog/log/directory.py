"""Is a directory fit to hold data? Asked of the real file system, before anything is opened.

A directory that cannot hold data is refused by name, with the mend. One that can, but whose data may not be
where the user believes, is warned of:

* a symbolic link is followed once; a dangling one is refused, for its disk is probably not mounted, and a new
  directory in its place would be an empty log;
* a directory of another user works as long as it is writable, until that user starts a node on it;
* in memory, in a container's own layer, or on a network file system, "flushed" means less than it says.
"""

import errno
import os
import re
from pathlib import Path

from rlog.errors import DataDirectoryError, StorageFailed

MOUNTS = Path("/proc/self/mountinfo")
LOCKS = Path("/proc/locks")

_MEMORY = re.compile(r"tmpfs|ramfs|devtmpfs")
_NETWORK = re.compile(r"nfs\d?|cifs|smb\w*|9p|virtiofs|ceph|glusterfs|lustre|afs|fuse\..*|fuse")
_CONTAINER = re.compile(r"overlay|aufs")

_MENDS = {
    errno.EACCES: "give it, and all that it holds, to the user that runs rlog",
    errno.EPERM: "give it, and all that it holds, to the user that runs rlog",
    errno.EROFS: "mount its file system writable",
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "raise the quota of the user that runs rlog",
    errno.EMFILE: "raise the number of open files (ulimit -n)",
    errno.ENFILE: "raise the system's number of open files (fs.file-max)",
    errno.ENOTDIR: "name a directory",
    errno.ELOOP: "name the directory itself, not a link",
}


def check_directory(path: str | os.PathLike[str]) -> list[str]:
    """Warnings about a data directory, which need not exist yet; its parent must.

    Raises DataDirectoryError when it cannot be used. In use, foreign or of a newer version is found out by
    opening it.
    """
    directory = Path(path)
    try:
        return _check(directory)
    except OSError as error:
        raise refusal(str(directory), error) from error


def refusal(directory: str, error: OSError | StorageFailed) -> DataDirectoryError:
    """What the system said of `directory`, with the mend where there is one to name."""
    return DataDirectoryError(f"{directory}: {error}{mend_of(error.errno)}")


def mend_of(error_number: int | None) -> str:
    """What to do about it, to be put behind the error; "" where rlog knows nothing to say."""
    mend = _MENDS.get(error_number or 0)
    return f"; {mend}" if mend else ""


def _check(directory: Path) -> list[str]:
    warnings = []
    if directory.is_symlink():
        target = directory.parent / directory.readlink()
        if not target.exists():
            raise DataDirectoryError(
                f"{directory} is a symbolic link to {target}, which is not there: mount or make that, "
                "or name another directory"
            )
        warnings.append(f"{directory} is a symbolic link: the data is in {directory.resolve()}; name that")
    if directory.exists():
        if not directory.is_dir():
            raise DataDirectoryError(f"{directory} is not a directory: name one, or one that can be made")
        return warnings + _check_owner(directory) + _warnings_of_mount(directory)
    parent = directory.absolute().parent
    if not parent.is_dir():
        raise DataDirectoryError(
            f"{directory} cannot be made: {parent} is no directory; make that first, or name another"
        )
    _check_writable(parent)
    return _warnings_of_mount(parent)


def _check_owner(directory: Path) -> list[str]:
    _check_writable(directory)
    if directory.stat().st_uid == os.geteuid():
        return []
    return [
        f"{directory} belongs to {_owner(directory)}, who may not be able to open what {_me()} writes there: "
        f"run rlog as {_owner(directory)}, or give it to {_me()}"
    ]


def _check_writable(directory: Path) -> None:
    if os.access(directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        return
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise DataDirectoryError(f"{directory} is read-only: mount its file system writable")
    raise DataDirectoryError(
        f"{directory} belongs to {_owner(directory)} and {_me()} may not write it: run rlog as "
        f"{_owner(directory)}, or give it to {_me()}"
    )


def _owner(directory: Path) -> str:
    try:
        return f"user {directory.owner()}"
    except KeyError:
        return f"user {directory.stat().st_uid}"


def _me() -> str:
    return f"user {os.geteuid()}"


def _warnings_of_mount(directory: Path) -> list[str]:
    kind, source = mount_of(directory.resolve(), MOUNTS.read_text())
    if _MEMORY.fullmatch(kind):
        return [
            f"{directory} is in memory ({kind}): what is acknowledged does not survive a restart of this "
            "machine; name a directory on a disk"
        ]
    if _NETWORK.fullmatch(kind):
        return [
            f"{directory} is on a network file system ({kind} of {source}): its server decides whether what "
            "is flushed is on a disk; name a directory on a local disk"
        ]
    if _CONTAINER.fullmatch(kind):
        return [f"{directory} is in a container's own layer ({kind}) and goes with it; name a volume"]
    return []


def mount_of(path: Path, mounts: str) -> tuple[str, str]:
    """(type, source) of the file system that holds `path`, from the text of proc(5)'s mountinfo."""
    best: tuple[int, str, str] = (-1, "unknown", "unknown")
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), before.split(" ")[4]))
        # Of several at one place the last one hides the others.
        if path.is_relative_to(point) and len(point.parts) >= best[0]:
            kind, source = after.split(" ")[:2]
            best = (len(point.parts), kind, source)
    return best[1:]


def holder_of(lock: str) -> str:
    """As `locked_by`, of a file that is locked; "another process" when it cannot be seen."""
    return locked_by(lock) or "another process"


def locked_by(lock: str) -> str | None:
    """ "pid 71 (rlog)" of the process that has locked the file; None when none is seen to. Takes no lock."""
    try:
        status = os.stat(lock)
        wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        for line in LOCKS.read_text().splitlines():
            # "1: FLOCK  ADVISORY  WRITE 71 fe:00:4711 0 EOF"; a waiting one has an arrow behind its number.
            _, kind, _, _, pid, file, *_ = line.split()
            if (kind, file) == ("FLOCK", wanted):
                return f"pid {pid} ({Path('/proc', pid, 'comm').read_text().strip()})"
    except OSError:
        return None  # it ended meanwhile, or lives where we cannot look
    return None
