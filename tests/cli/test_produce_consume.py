"""`rlog produce` and `rlog consume` as processes, against three real nodes."""

import json
import os
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rlog.cli.local_cluster import LocalCluster
from rlog.cli.produce import Report
from rlog.records import Receipt, Waited
from tests.cli.commands import RLOG, TIMEOUT_S, background, environment, inside, on_a_terminal, rlog
from tests.harness import running_cluster, wait_for

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130


def objects(output: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


def end_of(topic: str, address: dict[str, str]) -> int:
    """Records of the topic so far."""
    return len(objects(inside("consume", topic, "-e", "--json", **address).stdout))


@pytest.fixture
def address(cluster: LocalCluster) -> dict[str, str]:
    return {"RLOG_BOOTSTRAP": cluster.bootstrap}


def test_lines_go_in_and_come_out(address: dict[str, str], tmp_path: Path) -> None:
    lines = [b"%d" % number for number in range(5000)] + [b"", b"\xff\0\r", b"last, without an end of line"]
    (tmp_path / "input").write_bytes(b"\n".join(lines))
    done = rlog("produce", "lines", str(tmp_path / "input"), **address)
    assert done.stdout == b""
    assert b"5,003 of 5,003 records acknowledged" in done.stderr
    assert b"each flushed on a majority" in done.stderr
    assert rlog("consume", "lines", "-e", **address).stdout == b"\n".join(lines) + b"\n"
    assert rlog("consume", "lines", "--from", "4998", "--until", "5000", **address).stdout == b"4998\n4999\n"
    assert rlog("consume", "lines", "-o", "17", "-c", "2", **address).stdout == b"17\n18\n"


@pytest.mark.parametrize(
    ("acks", "waited", "told"),
    [
        ("all", "majority", b"3 of 3 records acknowledged (6 bytes), each flushed on a majority, in "),
        ("leader", "majority", b"3 of 3 records acknowledged (6 bytes), each flushed on a majority, in "),
        ("none", "none", b"3 of 3 records sent (6 bytes), each unanswered, in "),
    ],
)
def test_the_report_says_what_was_waited_for(
    address: dict[str, str], acks: str, waited: str, told: bytes
) -> None:
    """As the receipts have it: by default a node waits for a majority when it is asked for less."""
    assert told in rlog("produce", "one", "--acks", acks, stdin=b"aa\nbb\ncc\n", **address).stderr
    report = rlog("produce", "one", "--acks", acks, "--report", "json", stdin=b"a\nb\n", **address).stdout
    assert json.loads(report)["waited"] == {waited: 2}


def test_a_report_of_several_kinds_counts_each() -> None:
    report = Report("orders", "leader", read=4)
    assert report.text() == "0 of 4 records acknowledged (0 bytes), in 0.00 s"
    kinds: list[Waited] = ["leader", "majority", "leader"]
    for offset, waited in enumerate(kinds):
        report.acknowledge(Receipt("orders", 0, offset, waited=waited), 1)
    assert report.text() == (
        "3 of 4 records acknowledged (3 bytes), 2 flushed by the leader alone, 1 flushed on a majority, "
        "in 0.00 s"
    )
    assert report.fields()["waited"] == {"leader": 2, "majority": 1}


def test_keys_partitions_and_delimiters(address: dict[str, str]) -> None:
    report = rlog("produce", "orders", "-K", ":", "-D", r"\0", "--report", "json",
                  stdin=b"ann:1\n2\0no key\0:empty key\0bob:\0", **address).stdout  # fmt: skip
    assert json.loads(report)["acknowledged"] == 4
    rlog("produce", "orders", "-p", "2", stdin=b"here\n", **address)
    found = objects(inside("consume", "orders", "-e", "--json", **address).stdout)
    assert {(each["key"], each["value"]) for each in found} == {
        ("ann", "1\n2"), (None, "no key"), ("", "empty key"), ("bob", ""), (None, "here"),
    }  # fmt: skip
    assert [each["partition"] for each in found if each["value"] == "here"] == [2]
    raw = inside("consume", "orders", "-e", "-K", r"\t", "-D", "|", "-p", "2", **address).stdout
    assert b"\there|" in raw


def test_what_consume_prints_is_what_produce_reads(address: dict[str, str]) -> None:
    records = [
        {"key": "k", "value": "v", "headers": [{"name": "a", "value": "1"}, {"name": "a", "value": None}]},
        {"key_base64": "/wA=", "value_base64": "gIE=", "partition": 1, "timestamp_ms": 1_700_000_000_000},
        {"key": None, "value": None, "partition": 2},
    ]
    text = "".join(json.dumps(each) + "\n" for each in records).encode()
    rlog("produce", "copies", "--json", stdin=text, **address)
    first = inside("consume", "copies", "-e", "--json", **address).stdout
    report = json.loads(rlog("produce", "copies", "--json", "-", stdin=first, **address).stdout)
    assert (report["read"], report["acknowledged"], report["first_failure"]) == (3, 3, None)

    def content(each: dict[str, object]) -> dict[str, object]:
        return {name: value for name, value in each.items() if name not in ("offset", "generation")}

    copies = [
        content(each) for each in objects(inside("consume", "copies", "-e", "--json", **address).stdout)
    ]
    originals = [content(each) for each in objects(first)]
    assert sorted(map(str, copies)) == sorted(map(str, originals * 2))
    assert {"value_base64": "gIE=", "timestamp_ms": 1_700_000_000_000}.items() <= next(
        each for each in originals if each["partition"] == 1
    ).items()


def test_from_and_until_a_moment(address: dict[str, str]) -> None:
    """Each partition is read from, and up to, its own first record at or after the moment."""
    minute = 60_000
    now = time.time_ns() // 1_000_000
    records = [
        {"value": str(age), "partition": age % 3, "timestamp_ms": now - age * minute}
        for age in range(90, 0, -10)
    ]
    rlog("produce", "moments", "--json", stdin="\n".join(map(json.dumps, records)).encode(), **address)

    def values(*arguments: str) -> list[int]:
        printed = inside("consume", "moments", "--until", "end", *arguments, **address).stdout
        return sorted(map(int, printed.split()))

    assert values() == list(range(10, 100, 10))
    assert values("--from", "-45m") == [10, 20, 30, 40]
    assert values("--from", "-1h5m") == [10, 20, 30, 40, 50, 60]
    moment = datetime.fromtimestamp((now - 25 * minute) / 1000, UTC).isoformat()
    assert values("--from", moment) == [10, 20]
    assert values("--from", moment, "--until", "-15m") == [20]
    assert values("--until", moment) == [30, 40, 50, 60, 70, 80, 90]
    assert values("--from", "-1m") == []


def test_the_first_bad_line_is_named_and_what_came_before_is_in(address: dict[str, str]) -> None:
    before = end_of("one", address)
    lines = b'{"value": "good"}\n{"value": 7}\n{"value": "never read"}\n'
    done = rlog("produce", "one", "--json", stdin=lines, status=FAILED, **address)
    report = json.loads(done.stdout)
    assert (report["read"], report["acknowledged"], report["failed"], report["unknown"]) == (2, 1, 1, 0)
    assert (report["first_failure"]["line"], report["first_failure"]["outcome"]) == (2, "no")
    assert b"rlog: record 2 of the input was not acknowledged (outcome: no): 'value'" in done.stderr
    assert end_of("one", address) == before + 1


def test_a_line_too_long_is_named(address: dict[str, str]) -> None:
    for data in (b"short\n" + bytes(2 << 20), b"short\n" + bytes(1 << 20) + b"\nnever read\n"):
        done = rlog("produce", "one", stdin=data, status=FAILED, **address)
        assert b"record 2 of the input was not acknowledged (outcome: no)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("produce", "order", __file__), USAGE, b"did you mean 'orders'?"),
        (("consume", "order"), USAGE, b"topic 'order' does not exist in this cluster"),
        (("consume", "zebra"), USAGE, b"there is copies, lines, many, measured, moments, one, orders"),
        (("consume", "one", "-p", "7"), USAGE, b"partitions 0 to 0, not 7"),
        (("consume", "one", "-e", "-p", "7"), USAGE, b"partitions 0 to 0, not 7"),
        (("produce", "one", __file__, "-p", "7"), FAILED, b"partitions 0 to 0, not 7"),
        (("produce", "one", "/nowhere/at/all"), USAGE, b"/nowhere/at/all"),
        (("produce", "one", __file__, "-D", r"\xg4"), USAGE, b"two hexadecimal digits"),
        (("produce", "one", __file__, "-K", ""), USAGE, b"at least one character"),
        (("produce", "one", __file__, "--json", "-K", ":"), USAGE, b"each line says its key"),
        (("consume", "one", "--from", "yesterday"), USAGE, b"is no place in a log"),
        (("consume", "one", "-e", "--until", "7"), USAGE, b"leave one of them"),
        (("consume", "one", "--until", "latest"), USAGE, b"write end, an offset or a time"),
        (("consume", "one", "--from", "99999999", "-e"), 0, b""),
        (("consume", "one", "--from", "99999999", "-c", "1"), FAILED, b"name another place with --from"),
        (("consume", "one", "-b", "localhost:1", "--timeout", "0.5"), UNREACHABLE, b"localhost:1"),
        (("produce", "one", __file__, "-b", "localhost:x", "--timeout", "0.5"), USAGE, b"localhost:x"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_the_mend(
    address: dict[str, str], arguments: tuple[str, ...], status: int, told: bytes
) -> None:
    assert told in inside(*arguments, status=status, **address).stderr


def test_a_reader_that_has_enough_ends_it_quietly(address: dict[str, str]) -> None:
    rlog("produce", "many", stdin=b"line\n" * 200_000, **address)
    with background("consume", "many", **address) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.readline()  # of whichever test wrote to the topic first
        consumer.stdout.close()
        assert consumer.wait(TIMEOUT_S) == 0
        assert consumer.stderr is not None
        assert consumer.stderr.read() == b""


def test_ctrl_c_says_how_far_it_came(address: dict[str, str]) -> None:
    rlog("produce", "one", stdin=b"a\nb\n", **address)
    with background("consume", "one", "--from", "0", **address) as consumer:
        assert consumer.stdout is not None
        consumer.stdout.readline()
        consumer.send_signal(signal.SIGINT)
        _, said = consumer.communicate(timeout=TIMEOUT_S)
        assert consumer.returncode == INTERRUPTED
        assert b"rlog: interrupted after " in said


def test_ctrl_c_lets_what_was_sent_arrive(address: dict[str, str]) -> None:
    before = end_of("one", address)
    with background("produce", "one", **address) as producer:
        assert producer.stdin is not None
        producer.stdin.write(b"first\nsecond\nnot a whole li")
        producer.stdin.flush()
        wait_for(lambda: end_of("one", address) == before + 2, "both lines are in the log")
        producer.send_signal(signal.SIGINT)
        assert producer.wait(TIMEOUT_S) == INTERRUPTED
        assert producer.stderr is not None
        said = producer.stderr.read()
        assert b"rlog: interrupted; waiting for 0 records" in said
        assert b"2 of 2 records acknowledged" in said
    assert end_of("one", address) == before + 2


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    """Nothing is acknowledged, for two of three nodes are frozen: the first waits, the second does not."""
    with running_cluster(tmp_path, topics={"one": 1}) as cluster:
        leader = cluster.leader("one")
        assert leader is not None
        with background("produce", "one", "-b", cluster.bootstrap) as producer:
            assert producer.stdin is not None
            assert producer.stderr is not None
            cluster_nodes = [node for node in cluster.nodes if node != leader[0]]
            producer.stdin.write(b"x\n")
            producer.stdin.flush()
            wait_for(
                lambda: end_of("one", {"RLOG_BOOTSTRAP": cluster.bootstrap}) == 1,
                "the first line is in the log",
            )
            cluster.pause(*cluster_nodes)
            producer.stdin.write(b"y\n")
            producer.stdin.flush()
            producer.send_signal(signal.SIGINT)
            assert b"Ctrl-C again ends it at once" in producer.stderr.readline()
            assert producer.poll() is None
            producer.send_signal(signal.SIGINT)
            assert producer.wait(10) == -signal.SIGINT
        cluster.resume(*cluster_nodes)


def test_a_write_of_unknown_fate_is_said_to_be(tmp_path: Path) -> None:
    """The only other node is frozen: the leader has the record, no majority flushed it, nobody knows."""
    with running_cluster(tmp_path, topics={"one": 1}, nodes=2) as cluster:
        leader = cluster.leader("one")
        assert leader is not None
        address = {"RLOG_BOOTSTRAP": cluster.bootstrap}
        arguments = ("produce", "one", "--delivery-timeout", "2", "--report", "json")
        with background(*arguments, **address) as producer:
            assert producer.stdin is not None
            producer.stdin.write(b"x\n")
            producer.stdin.flush()
            wait_for(lambda: end_of("one", address) == 1, "the first line is in the log")
            cluster.pause(3 - leader[0])
            answer, said = producer.communicate(b"y\n", timeout=TIMEOUT_S)
        assert producer.returncode == FAILED
        report = json.loads(answer)
        assert (report["acknowledged"], report["unknown"], report["first_failure"]["line"]) == (1, 1, 2)
        assert b"record 2 of the input was not acknowledged (outcome: unknown)" in said
        cluster.resume(3 - leader[0])


def test_a_killed_leader_costs_nothing(tmp_path: Path) -> None:
    """Lines flow while the leader is killed: every one is acknowledged, and is in the log once, in order."""
    lines = [b"line %d" % number for number in range(60_000)]
    with running_cluster(tmp_path, topics={"one": 1}) as cluster:
        leader = cluster.leader("one")
        assert leader is not None
        address = {"RLOG_BOOTSTRAP": cluster.bootstrap}
        with (
            background("produce", "one", "--report", "json", **address) as producer,
            background("consume", "one", "-c", str(len(lines)), **address) as consumer,
        ):
            assert producer.stdin is not None
            for begin in range(0, len(lines), 1000):
                producer.stdin.write(b"".join(line + b"\n" for line in lines[begin : begin + 1000]))
                producer.stdin.flush()
                if begin == 20_000:
                    cluster.kill(leader[0])
            answer, said = producer.communicate(timeout=TIMEOUT_S)
            printed, _ = consumer.communicate(timeout=TIMEOUT_S)
        assert producer.returncode == 0, said
        assert json.loads(answer)["acknowledged"] == len(lines)
        assert printed.splitlines() == lines


def test_a_silent_cluster_is_said_to_be(tmp_path: Path) -> None:
    """Where there is an end to reach it fails; where there is none it says so, and goes on when it can."""
    with running_cluster(tmp_path, topics={"one": 1}) as cluster:
        address = {"RLOG_BOOTSTRAP": cluster.bootstrap}
        rlog("produce", "one", stdin=b"a\n", **address)
        with (
            background("consume", "one", "--until", "9", "--timeout", "2", **address) as ending,
            background("consume", "one", "--timeout", "2", **address) as endless,
        ):
            for each in (ending, endless):
                assert each.stdout is not None
                assert each.stdout.readline() == b"a\n"
            cluster.pause()
            assert ending.wait(TIMEOUT_S) == UNREACHABLE
            assert ending.stderr is not None
            assert b"did not answer for 2000 ms" in ending.stderr.read()
            assert endless.stderr is not None
            assert b"did not answer for 2000 ms" in endless.stderr.readline()
            cluster.resume()
            cluster.wait_ready()
            rlog("produce", "one", stdin=b"b\n", **address)
            assert endless.stdout is not None
            assert endless.stdout.readline() == b"b\n"
            assert endless.poll() is None


def test_control_batches_at_the_end_are_no_reason_to_wait(tmp_path: Path) -> None:
    """After a restart the log ends with the start of a generation, which no reader sees."""
    with running_cluster(tmp_path, topics={"one": 1}) as cluster:
        address = {"RLOG_BOOTSTRAP": cluster.bootstrap}
        rlog("produce", "one", stdin=b"a\n", **address)
        cluster.stop()
        cluster.start()
        cluster.wait_ready()
        wait_for(lambda: end_offset(cluster) == 2, "the new generation's start is committed")
        assert inside("consume", "one", "-e", "--timeout", "3600", **address).stdout == b"a\n"
        assert inside("consume", "one", "--from", "1", "-e", "--timeout", "3600", **address).stdout == b""


def end_offset(cluster: LocalCluster) -> int:
    states = [cluster.describe(node) for node in cluster.nodes]
    return max(state["partitions"][0]["hwm"] for state in states if state is not None)


def test_a_bar_is_drawn_on_a_terminal_only(address: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"line\n" * 50_000)
    status, said = on_a_terminal("produce", "many", str(tmp_path / "input"), **address)
    assert status == 0, said
    assert b"\x1b[" in said
    assert "━".encode() in said
    done = inside("produce", "many", str(tmp_path / "input"), **address)
    assert b"\x1b" not in done.stderr


def test_a_file_that_ends_while_it_is_followed(address: dict[str, str]) -> None:
    """`tail -f | rlog produce`: each line is acknowledged without waiting for the next one."""
    before = end_of("one", address)
    reading, writing = os.pipe()
    with subprocess.Popen([*RLOG, "produce", "one"], stdin=reading, stderr=subprocess.PIPE,
                          env=environment(**address)) as producer:  # fmt: skip
        os.close(reading)
        for expected in range(before + 1, before + 4):
            os.write(writing, b"line\n")
            wait_for(lambda end=expected: end_of("one", address) == end, "the line is in the log")
        os.close(writing)
        assert producer.wait(TIMEOUT_S) == 0
