"""Processes that fork, end, are killed, or come second; and directories that are not an embedded log's."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

import rlog
from rlog._core import Vfs
from rlog.embedded import lifetime
from rlog.errors import DataDirectoryError, ForkedProcess
from rlog.log.meta import Meta
from rlog.log.storage import Storage
from tests.embedded.kit import values_of

TIMEOUT_S = 60


def python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program of a few lines to its end."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


# ---- forks

FORK = """
import os, sys, warnings
import rlog
from rlog.errors import ForkedProcess

log = rlog.open(sys.argv[1])
log.append(b"parent")
reading = log.read()
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    targets = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    refused = -sum(target.startswith(sys.argv[1]) for target in targets)
    for use in (lambda: log.append(b"child"), lambda: log.append_many([b"child"]), log.read,
                lambda: list(reading), lambda: log.wait(0), log.__enter__):
        try:
            use()
        except ForkedProcess as error:
            refused += str(os.getppid()) in str(error)
    log.close()
    log.close()
    rlog.open(sys.argv[2]).close()
    sys.exit(refused)
_, status = os.waitpid(child, 0)
log.append(b"after")
print(os.waitstatus_to_exitcode(status), len(list(log.read())))
log.close()
rlog.open(sys.argv[1]).close()
"""


def test_a_forked_child_is_refused_and_leaves_the_log_alone(tmp_path: Path) -> None:
    """Its exit too: handlers at exit run in it."""
    done = python(FORK, tmp_path / "orders", tmp_path / "of the child")
    assert (done.stdout, done.stderr) == ("6 2\n", "")
    with rlog.open(tmp_path / "orders") as log:
        assert values_of(log) == [b"parent", b"after"]


FORK_AND_CLOSE = """
import os, sys, time, warnings
import rlog

warnings.simplefilter("ignore")
log = rlog.open(sys.argv[1])
log.append(b"parent")
told, tell = os.pipe()
child = os.fork()
if child == 0:
    os.close(tell)
    os.read(told, 1)   # live until the parent ends
    os._exit(0)
log.close()
rlog.open(sys.argv[1]).close()   # the child holds no lock
os.close(tell)
os.waitpid(child, 0)
"""
# Of a fork that Python does not know of, the child keeps every descriptor.
FORK_BEHIND_PYTHON = FORK_AND_CLOSE.replace("os.fork()", "ctypes.PyDLL(None).fork()").replace(
    "import os", "import ctypes, os"
)


@pytest.mark.parametrize("program", [FORK_AND_CLOSE, FORK_BEHIND_PYTHON])
def test_a_living_child_does_not_keep_the_directory_locked(tmp_path: Path, program: str) -> None:
    done = python(program, tmp_path / "orders")
    assert (done.returncode, done.stderr) == (0, "")


def test_forking_while_threads_append_leaves_the_child_able_to_end(tmp_path: Path) -> None:
    program = """
import os, sys, threading, warnings
import rlog
from rlog.errors import ForkedProcess

warnings.simplefilter("ignore")
log = rlog.open(sys.argv[1])
ended = threading.Event()
counts = [0] * 4

def write(name):
    while not ended.is_set():
        log.append(b"x")
        counts[name] += 1

threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
for thread in threads: thread.start()
log.wait(10)
statuses = []
for _ in range(10):
    child = os.fork()
    if child == 0:
        try:
            log.append(b"child")
        except ForkedProcess:
            log.close()
            sys.exit(7)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ended.set()
for thread in threads: thread.join()
log.close()
print(set(statuses), sum(counts))
"""
    done = python(program, tmp_path / "orders")
    assert done.stderr == ""
    statuses, count = done.stdout.rsplit(" ", 1)
    assert statuses == "{7}"
    with rlog.open(tmp_path / "orders") as log:
        assert values_of(log) == [b"x"] * int(count)


# ---- exits

EXIT = """
import sys, threading
import rlog

log = rlog.open(sys.argv[1])
log.append(b"acknowledged")
{rest}
"""

ENDINGS = {
    "the end": "",
    "sys.exit": "sys.exit(0)",
    "appending daemon threads": """
def write():
    while True:
        log.append(b"acknowledged")
for _ in range(4): threading.Thread(target=write, daemon=True).start()
log.wait(50)
""",
    "following daemon threads": """
for _ in range(3): threading.Thread(target=lambda: list(log.read(follow=True)), daemon=True).start()
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_exit_without_close_is_quiet_and_clean(tmp_path: Path, ending: str) -> None:
    done = python(EXIT.format(rest=ENDINGS[ending]), tmp_path / "orders")
    assert done.returncode == 0, done.stderr
    complaints = [line for line in done.stderr.splitlines() if "Error" in line and "LogClosed" not in line]
    assert not complaints, done.stderr
    meta = Meta.load(Vfs.system(), str(tmp_path / "orders"), bytes_max=1 << 20)
    assert meta.state.partitions["log"].clean_end is not None, "it was closed, not just left"
    with rlog.open(tmp_path / "orders") as log:
        assert set(values_of(log)) == {b"acknowledged"}


def test_ctrl_c_in_a_program_that_appends_loses_nothing(tmp_path: Path) -> None:
    program = """
import sys
import rlog

with rlog.open(sys.argv[1]) as log:
    while True:
        print(log.append(b"x").offset, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "orders")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(50)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert err.rstrip().endswith("KeyboardInterrupt")
    lines += out.splitlines(keepends=True)
    acknowledged = sum(line.endswith("\n") for line in lines)
    with rlog.open(tmp_path / "orders") as log:
        assert len(values_of(log)) in (acknowledged, acknowledged + 1)


def test_a_kill_in_the_middle_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """SIGKILL to a process whose threads append and print what was acknowledged; ten lives of one log."""
    program = """
import os, sys, threading
import rlog

log = rlog.open(sys.argv[1])
life = sys.argv[2]

def write(name):
    number = 0
    while True:
        value = f"{life}-{name}-{number}".encode()
        if number % 5 == 4:
            receipt = log.append_many([value] * 30, atomic=True)
            os.write(1, b"%d %d %s\\n" % (receipt.first_offset, receipt.count, value))
        else:
            os.write(1, b"%d 1 %s\\n" % (log.append(value).offset, value))
        number += 1

for name in range(4): threading.Thread(target=write, args=(name,)).start()
"""
    expected: dict[int, bytes] = {}
    for life in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "orders"), str(life)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(40 + 7 * life)]
        process.kill()
        lines += process.stdout.read().splitlines(keepends=True)
        assert process.wait(TIMEOUT_S) == -signal.SIGKILL
        for line in lines:
            if line.endswith(b"\n"):
                offset, count, value = line.split()
                expected |= dict.fromkeys(range(int(offset), int(offset) + int(count)), value)
    with rlog.open(tmp_path / "orders") as log:
        values = values_of(log)
    assert len(expected) > 400
    assert all(values[offset] == value for offset, value in expected.items())
    lists = [value for value in values if value is not None and int(value.split(b"-")[2]) % 5 == 4]
    assert all(lists.count(value) == 30 for value in set(lists)), "a list that fits is all or nothing"


def test_an_exit_closes_every_log_whatever_one_of_them_raises(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = [rlog.open(tmp_path / name) for name in ("a", "b", "c")]

    def fail() -> None:
        raise ZeroDivisionError("a bug")

    for log in logs[:2]:
        monkeypatch.setattr(log, "end", fail)
    lifetime._at_exit()
    assert logs[2].is_closed
    assert caplog.text.count("could not be closed at exit") == 2
    for log in logs:
        log.close()


# ---- directories


def test_a_directory_in_use_names_its_process(tmp_path: Path) -> None:
    me = f"pid {os.getpid()} ({Path('/proc/self/comm').read_text().strip()})"
    with rlog.open(tmp_path / "orders") as log:
        with pytest.raises(DataDirectoryError, match="is in use by") as caught:
            rlog.open(tmp_path / "orders")
        assert me in str(caught.value)
        other = python("import rlog, sys; rlog.open(sys.argv[1])", tmp_path / "orders")
        assert f"is in use by {me}: end that, or name another directory" in other.stderr
        log.append(b"undisturbed")
    rlog.open(tmp_path / "orders").close()


def test_a_log_that_was_forgotten_is_closed_with_its_descriptors(tmp_path: Path) -> None:
    rlog.open(tmp_path / "orders").append(b"a")
    with rlog.open(tmp_path / "orders") as log:
        assert values_of(log) == [b"a"]


def test_a_log_forgotten_in_a_reference_cycle_is_closed_when_that_is_collected(tmp_path: Path) -> None:
    """Python clears the members of a cycle in any order: a file must still know how to close itself."""

    class Application:
        me: object

        def __init__(self, *what: object) -> None:
            self.what = what
            self.me = self

    log = rlog.open(tmp_path / "orders")
    log.append(b"a")
    reading = log.read()
    next(reading)
    Application(log, reading)
    del log, reading
    gc.collect()
    targets = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
    assert not [each for each in targets if each.startswith(str(tmp_path))]
    with rlog.open(tmp_path / "orders") as log:
        assert values_of(log) == [b"a"]


def test_nodes_and_embedded_logs_do_not_open_each_others_directories(tmp_path: Path) -> None:
    Storage.open(Vfs.system(), str(tmp_path / "node"), random=Random(1), partitions=["orders-0"]).close()
    with pytest.raises(DataDirectoryError) as caught:
        rlog.open(tmp_path / "node")
    assert str(caught.value) == (
        f"{tmp_path}/node is the data directory of a cluster node, not of an embedded log: "
        "name another directory"
    )
    rlog.open(tmp_path / "orders").close()
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "orders").rglob("*"))
    with pytest.raises(
        DataDirectoryError, match="is the data directory of an embedded log, not of a cluster"
    ):
        Storage.open(Vfs.system(), str(tmp_path / "orders"), random=Random(1), partitions=["orders-0"])
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "orders").rglob("*")) == before


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (
            lambda path: path.mkdir() or (path / "letter").touch(),
            "is not an rlog data directory: it holds 'letter'",
        ),
        (lambda path: path.touch(), "is not a directory"),
        (lambda path: path.symlink_to("unmounted"), "is a symbolic link to .*, which is not there"),
        (
            lambda path: path.mkdir() or (path / "format").write_text("rlog data directory\nformat 2\n"),
            "format 2",
        ),
    ],
)
def test_what_is_no_log_is_refused_and_left_alone(tmp_path: Path, make: object, complaint: str) -> None:
    make(tmp_path / "orders")
    for _ in range(2):
        with pytest.raises(DataDirectoryError, match=complaint):
            rlog.open(tmp_path / "orders")
    assert not (tmp_path / "unmounted").exists()
    with pytest.raises(DataDirectoryError, match="cannot be made"):
        rlog.open(tmp_path / "absent" / "orders")


def test_forked_process_is_an_error_of_rlog() -> None:
    assert issubclass(ForkedProcess, rlog.RlogError)
