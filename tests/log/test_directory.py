"""Data directories as users name them: what is refused, what is warned of, and the mend in each message."""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from rlog._core import Vfs
from rlog.errors import DataDirectoryError
from rlog.log import directory
from rlog.log.directory import check_directory, holder_of, mount_of, refusal
from rlog.log.storage import Storage

MOUNTS = r"""27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:26 / /tmp rw - tmpfs tmpfs rw,size=4k
31 27 0:27 / /net/a\040b rw shared:7 master:3 - nfs4 filer:/export rw
32 27 0:28 / /net/hidden rw - nfs4 filer:/export rw
33 27 8:1 / /net/hidden rw - xfs /dev/sda1 rw
34 27 0:29 / /cloud rw - fuse.sshfs me@there: rw
35 27 0:30 / /layer rw - overlay overlay rw
36 27 8:2 / /windows rw - fuseblk /dev/sdb1 rw
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that any user may reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="rlog-tests-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def on_a_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the tests' own directories are on."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text("27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n")
    monkeypatch.setattr(directory, "MOUNTS", mounts)


@pytest.mark.usefixtures("on_a_disk")
def test_a_directory_or_one_that_can_be_made_is_fine(place: Path) -> None:
    assert check_directory(place) == []
    assert check_directory(place / "new") == []
    assert not (place / "new").exists(), "checking makes nothing"


NO_PARENT = "cannot be made: {0} is no directory; make that first, or name another"
NO_TARGET = "is a symbolic link to {0}, which is not there: mount or make that, or name another directory"


@pytest.mark.parametrize(
    ("name", "complaint", "other"),
    [
        ("absent/data", NO_PARENT, "absent"),
        ("file/data", NO_PARENT, "file"),
        ("file", "is not a directory: name one, or one that can be made", ""),
        ("dangling", NO_TARGET, "unmounted"),
        ("circle", NO_TARGET, "circle"),
    ],
)
def test_what_cannot_hold_data_is_refused(place: Path, name: str, complaint: str, other: str) -> None:
    (place / "file").touch()
    (place / "dangling").symlink_to("unmounted")
    (place / "circle").symlink_to("circle")
    with pytest.raises(DataDirectoryError) as caught:
        check_directory(place / name)
    assert str(caught.value) == f"{place / name} {complaint.format(place / other)}"
    assert not (place / "unmounted").exists()


@pytest.mark.usefixtures("on_a_disk")
def test_a_link_is_followed_and_named(place: Path) -> None:
    (place / "disk").mkdir()
    (place / "data").symlink_to(place / "disk")
    (warning,) = check_directory(place / "data")
    assert warning == f"{place}/data is a symbolic link: the data is in {place}/disk; name that"


class AnotherUser:
    """Inside it this process is nobody (where it is root), or the directory is root's (where it is not)."""

    def __init__(self, directory: Path) -> None:
        self.is_root = os.geteuid() == 0
        self.directory = directory if self.is_root else Path("/usr")

    def __enter__(self) -> "AnotherUser":
        if self.is_root:
            os.seteuid(65534)
        return self

    def __exit__(self, *error: object) -> None:
        if self.is_root:
            os.seteuid(0)


@pytest.mark.parametrize("name", [".", "new"])
def test_a_directory_that_only_another_user_may_write_is_refused(place: Path, name: str) -> None:
    with AnotherUser(place) as other, pytest.raises(DataDirectoryError) as caught:
        check_directory(other.directory / name)
    owner = f"user {other.directory.owner()}"
    me = f"user {65534 if other.is_root else os.geteuid()}"
    assert str(caught.value) == (
        f"{other.directory} belongs to {owner} and {me} may not write it: "
        f"run rlog as {owner}, or give it to {me}"
    )


@pytest.mark.usefixtures("on_a_disk")
def test_a_writable_directory_of_another_user_is_warned_of(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    (warning,) = check_directory(place)
    assert "who may not be able to open what user 12345 writes there" in warning


def test_a_read_only_file_system_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *args, **settings: False)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY | os.ST_NOSUID))
    with pytest.raises(DataDirectoryError) as caught:
        check_directory(place / "new")
    assert str(caught.value) == f"{place} is read-only: mount its file system writable"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data", "ext4"),
        ("/tmp/data", "tmpfs"),
        ("/tmpdata", "ext4"),
        ("/net/a b", "nfs4"),
        ("/net/hidden/data", "xfs"),
        ("/windows/data", "fuseblk"),
    ],
)
def test_the_mount_of_a_path_is_found(path: str, kind: str) -> None:
    assert mount_of(Path(path), MOUNTS)[0] == kind


@pytest.mark.parametrize(
    ("kind", "warning"),
    [
        ("tmpfs", "is in memory (tmpfs): what is acknowledged does not survive a restart of this machine"),
        ("nfs4", "is on a network file system (nfs4 of there): its server decides whether what is flushed"),
        ("cifs", "is on a network file system (cifs of there)"),
        ("9p", "is on a network file system (9p of there)"),
        ("fuse.sshfs", "is on a network file system (fuse.sshfs of there)"),
        ("overlay", "is in a container's own layer (overlay) and goes with it; name a volume"),
    ],
)
def test_a_file_system_that_keeps_no_promise_is_warned_of(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, warning: str
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"27 1 254:0 / / rw,relatime - {kind} there rw\n")
    monkeypatch.setattr(directory, "MOUNTS", mounts)
    (found,) = check_directory(place)
    assert found.startswith(f"{place} {warning}")


def test_who_has_the_lock_is_named(place: Path) -> None:
    """SAFETY 50; see also tests/fs, where two processes meet."""
    path = str(place / "data")
    storage = Storage.open(Vfs.system(), path, random=Random(1), partitions=[])
    comm = Path("/proc/self/comm").read_text().strip()
    try:
        assert holder_of(f"{path}/lock") == f"pid {os.getpid()} ({comm})"
        with pytest.raises(DataDirectoryError, match=rf"in use by pid {os.getpid()} .*: end that, or name"):
            Storage.open(Vfs.system(), path, random=Random(1), partitions=[])
    finally:
        storage.close()
    assert holder_of(f"{path}/lock") == "another process"
    assert holder_of(f"{path}/absent") == "another process"


NEWER = "rlog data directory\nformat 2\n"
FOREIGN_MEND = "name another, or an empty one"
NOT_OURS = "not that of an rlog data directory: name another directory"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("letter", "dear", f"is not an rlog data directory: it holds 'letter'; {FOREIGN_MEND}"),
        ("format", NEWER, "has format 2; this rlog reads format 1: use the rlog that wrote it"),
        ("format", "rlog data directory\nformat 1\n", f"/format is {NOT_OURS}"),
        ("format", "else", f"/format is {NOT_OURS}"),
    ],
)
def test_a_foreign_or_newer_directory_is_left_alone(
    place: Path, name: str, content: str, complaint: str
) -> None:
    """SAFETY 49."""
    (place / name).write_text(content)
    with pytest.raises(DataDirectoryError) as caught:
        Storage.open(Vfs.system(), str(place), random=Random(1), partitions=["orders-0"])
    assert str(caught.value).removeprefix(str(place)).strip() == complaint
    assert (place / name).read_text() == content
    assert {each.name for each in place.iterdir()} <= {name, "lock"}


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.EACCES, "give it, and all that it holds, to the user that runs rlog"),
        (errno.EROFS, "mount its file system writable"),
        (errno.ENOSPC, "make room on its disk"),
        (errno.EMFILE, "raise the number of open files (ulimit -n)"),
    ],
)
def test_an_error_of_the_system_comes_with_the_mend(number: int, mend: str) -> None:
    error = OSError(number, os.strerror(number))
    assert str(refusal("/data", error)) == f"/data: {error}; {mend}"
