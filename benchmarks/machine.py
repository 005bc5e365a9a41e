"""What a figure was measured on."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import rlog

LIBRARIES = ("uvloop", "crc32c", "lz4")


def machine(directory: Path) -> dict[str, str | int]:
    """Processor, memory, kernel, file system of `directory`, and versions."""
    return {
        "processor": _first("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count() or 0,
        "memory": _first("/proc/meminfo", "MemTotal"),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": file_system(directory),
        "python": sys.version.split()[0],
        "rlog": rlog.__version__,
        "commit": commit(),
        **{name: version(name) for name in LIBRARIES},
    }


def commit() -> str:
    """Of the repository this runs from: `git describe`, with -dirty where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def file_system(directory: Path) -> str:
    """The type of the file system that holds `directory`, from the mount table."""
    best, found = Path(), "unknown"
    path = directory.resolve()
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind = line.split(" ")[:3]
        mounted = Path(point.replace("\\040", " "))
        if path.is_relative_to(mounted) and len(mounted.parts) >= len(best.parts):
            best, found = mounted, kind
    return found


def _first(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return ""
