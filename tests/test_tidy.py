"""What reviewers forget: the direction of the imports, a pure core, bounds on length, nothing left over."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 600

SOURCES = sorted((ROOT / "rlog").rglob("*.py"))
NATIVE = sorted([*(ROOT / "rlog").rglob("*.pyx"), *(ROOT / "rlog").rglob("*.pxi")])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
OTHERS = sorted([*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "examples").rglob("*.py")])

# Who may import whom, inside rlog. raft and log never meet: node alone carries effects between them.
LAYERS = {
    "raft": {"raft", "errors", "generations"},
    "log": {"log", "_core", "errors", "generations", "records"},
    "wire": {"wire", "raft", "_core", "errors", "records"},
    "embedded": {"embedded", "log", "_core", "clock", "errors", "moments", "records"},
    "client": {"client", "wire", "_core", "clock", "errors", "moments", "records", "rlog", "__version__"},
    "sync": {"sync", "client", "errors", "moments", "records"},
    # What a node counts and says, and how that is shown; it is told, and asks nothing of who tells it.
    "observe": {"observe", "errors", "rlog", "__version__"},
    "node": {
        "node",
        "observe",
        "raft",
        "log",
        "wire",
        "_core",
        "config",
        "errors",
        "records",
        "rlog",
        "clock",
        "__version__",
    },
    "testing": {
        "rlog",
        "testing",
        "client",
        "node",
        "raft",
        "log",
        "wire",
        "_core",
        "config",
        "errors",
        "records",
    },
    "cli": {
        "cli",
        "client",
        "node",
        "observe",
        "log",
        "wire",
        "_core",
        "config",
        "errors",
        "generations",
        "moments",
        "records",
        "rlog",
        "__version__",
    },
}

# The pure core, with the one module that it shares with the log.
CORE = [*sorted((ROOT / "rlog/raft").rglob("*.py")), ROOT / "rlog/generations.py"]

# What the pure core may take from the standard library: nothing that reads a clock or does I/O.
RAFT_MAY_IMPORT = {
    "__future__", "abc", "bisect", "collections", "collections.abc", "contextlib", "dataclasses", "enum",
    "functools", "heapq", "itertools", "math", "operator", "random", "types", "typing",
}  # fmt: skip

# Time, randomness, ids and files reach a node through `Env` (docs/architecture.md: one node, two worlds).
NODE_MAY_NOT_IMPORT = {
    "time",
    "random",
    "uuid",
    "socket",
    "threading",
    "os",
    "datetime",
    "secrets",
    "subprocess",
}
PROCESS = ROOT / "rlog/node/process.py"
# Looks at the real file system before a real node opens it.
DIRECTORY = ROOT / "rlog/log/directory.py"
WALL_CLOCKS = {PROCESS, ROOT / "rlog/clock.py"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each import; name is empty for `import module`."""
    package = list(path.relative_to(ROOT).with_suffix("").parts)
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield module, alias.name


def part_of_rlog(module: str, name: str) -> str | None:
    """`raft` for anything in rlog.raft, `rlog` for the package itself; None for what is not rlog's."""
    parts = [*module.split("."), name]
    return (parts[1] or "rlog") if parts[0] == "rlog" else None


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_down_the_data_flow(layer: str) -> None:
    wrong = [
        f"{name_of(path)} imports {module} {name}"
        for path in (ROOT / "rlog" / layer).rglob("*.py")
        for module, name in imports(path)
        if (part := part_of_rlog(module, name)) is not None and part not in LAYERS[layer]
    ]
    assert not wrong, wrong


def test_a_folders_map_names_each_of_its_files() -> None:
    """The docstring of its `__init__.py`; but where each file is named after its command or its request."""
    missing = [
        name_of(path)
        for home in (ROOT / "rlog").rglob("__init__.py")
        if name_of(home.parent) not in {"rlog", "rlog/cli", "rlog/wire/kafka"}
        for path in home.parent.glob("*.py")
        if not path.name.startswith("_")
        if path.name not in re.findall(r"\w+\.py", ast.get_docstring(tree_of(home)) or "")
    ]
    assert not missing, missing


def test_the_consensus_core_is_pure() -> None:
    """It imports nothing that reads a clock or does I/O; of `random` only the class, for annotations."""
    wrong = [
        f"{name_of(path)} imports {module} {name}"
        for path in CORE
        for module, name in imports(path)
        if part_of_rlog(module, name) not in LAYERS["raft"]
        and (module not in RAFT_MAY_IMPORT or (module == "random" and name != "Random"))
    ]
    assert not wrong, wrong


def test_a_node_meets_time_and_randomness_only_through_its_env() -> None:
    wrong = [
        f"{name_of(path)} imports {module} {name}"
        for path in [*(ROOT / "rlog/node").rglob("*.py"), *(ROOT / "rlog/log").rglob("*.py")]
        if path not in {PROCESS, DIRECTORY}
        for module, name in imports(path)
        if (module.split(".")[0] in NODE_MAY_NOT_IMPORT or module == "rlog.clock")
        and (module, name) not in {("random", "Random")}
        and not (module == "os" and name == "PathLike")
    ]
    assert not wrong, wrong


def test_nothing_is_pickled() -> None:
    """SAFETY 50: neither on disk nor on the wire."""
    wrong = [
        f"{name_of(path)} imports {module}"
        for path in SOURCES
        for module, _ in imports(path)
        if module.split(".")[0] in {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    ]
    assert not wrong, wrong


def test_timeouts_use_the_monotonic_clock() -> None:
    """SAFETY 50: `time.time` is for timestamps, and only where `wall_clock_ms` is made."""
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute)
        and node.attr in {"time", "time_ns"}
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
        and path not in WALL_CLOCKS
    ]
    assert not wrong, wrong


def test_the_library_never_prints() -> None:
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"print", "pprint", "breakpoint"}
    ]
    assert not wrong, wrong


def functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, line, length in lines) of each function."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.lineno, node.end_lineno - node.lineno + 1


def native_functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """The same for Cython: a function lasts until the next line that is indented no deeper than it is."""
    lines = path.read_text().split("\n")
    for number, line in enumerate(lines):
        match = re.match(r"( *)(?:cdef|cpdef|def)\b[^=:]*?(\w+)\(", line)
        if match is None:
            continue
        depth, last = len(match[1]), number
        for after in range(number + 1, len(lines)):
            text = lines[after]
            if text.strip() and len(text) - len(text.lstrip()) <= depth and not text.lstrip().startswith(")"):
                break
            last = after if text.strip() else last
        yield match[2], number + 1, last - number + 1


def test_functions_fit_on_a_screen() -> None:
    measured = [(path, each) for path in [*SOURCES, *TESTS, *OTHERS] for each in functions(path)]
    measured += [(path, each) for path in NATIVE for each in native_functions(path)]
    wrong = [
        f"{name_of(path)}:{line} {name}: {length} lines"
        for path, (name, line, length) in measured
        if length > FUNCTION_LINES_MAX
    ]
    assert not wrong, wrong


def test_files_stay_short() -> None:
    lengths = {
        name_of(path): len(path.read_text().split("\n")) for path in [*SOURCES, *NATIVE, *TESTS, *OTHERS]
    }
    assert not {name: length for name, length in lengths.items() if length > FILE_LINES_MAX}


LEFTOVERS = re.compile(
    r"\b(TODO|FIXME|XXX|HACK|DESIGN)\b|NotImplementedError|# type: ignore|# noqa"
    r"|mark\.(skip|xfail)|\bexcept:|/root/|/home/"
)


def test_nothing_is_left_over() -> None:
    """No open ends, no silenced checks, no machine's paths."""
    wrong = [
        f"{name_of(path)}:{number} {line.strip()}"
        for path in [*SOURCES, *NATIVE, *TESTS, *OTHERS, *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().split("\n"), start=1)
        if LEFTOVERS.search(line)
    ]
    assert not wrong, wrong


def test_no_error_is_swallowed() -> None:
    """An `except` that only passes names the one narrow error that it expects."""
    wrong = [
        f"{name_of(path)}:{handler.lineno}"
        for path in SOURCES
        for handler in ast.walk(tree_of(path))
        if isinstance(handler, ast.ExceptHandler)
        and (
            handler.type is None
            or (isinstance(handler.type, ast.Name) and handler.type.id in {"Exception", "BaseException"})
        )
        and all(isinstance(statement, ast.Pass) for statement in handler.body)
    ]
    assert not wrong, wrong


PROVES = ("Assert(", "'raises'", "check", "assert_", "verify", "expect", "benchmark", "run_script")


def every_test_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node


def test_every_test_asserts() -> None:
    hollow = [
        f"{name_of(path)}:{test.lineno} {test.name}"
        for path in TESTS
        for test in every_test_of(path)
        if not any(proof in ast.dump(test) for proof in PROVES)
    ]
    assert not hollow, hollow


def test_no_test_waits_by_sleeping() -> None:
    """Wait for a condition with a deadline, or use virtual time."""
    sleepy = [
        f"{name_of(path)}:{test.lineno} {test.name}"
        for path in TESTS
        for test in every_test_of(path)
        for node in ast.walk(test)
        if isinstance(node, ast.Attribute) and node.attr == "sleep" and ast.unparse(node.value) == "time"
    ]
    assert not sleepy, sleepy
