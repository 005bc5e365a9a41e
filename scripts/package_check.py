"""`python -m scripts.package_check`: what is published installs and works, without this directory.

Builds the source distribution, a wheel from nothing but that, installs the wheel into a new environment, and
there appends a record and asks the command for its version.
"""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Of no use to those who build.
LEFT_OUT = {".gitignore"}
EMBEDDED = """
import rlog
with rlog.open("log") as log:
    log.append(b"paid")
    (record,) = log.read(0)
    assert record.value == b"paid"
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run([sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", place], ROOT)
        source = unpacked(next(place.glob("*.tar.gz")), place)
        missing = not_in(source)
        if missing:
            return refused("\n  ".join(["not in the source distribution:", *missing]))
        wheel = built_wheel(source, place)
        names = zipfile.ZipFile(wheel).namelist()
        unwanted = [name for name in names if name.endswith((".c", ".pxi", ".pyx"))]
        if unwanted or "none-any" in wheel.name:
            return refused(f"{wheel.name} is not what it should be: {unwanted}")
        environment = place / "environment"
        venv.create(environment, with_pip=True)
        run([environment / "bin/python", "-m", "pip", "install", "--quiet", wheel], place)
        run([environment / "bin/python", "-c", EMBEDDED], place)
        run([environment / "bin/rlog", "--version"], place)
    return 0


def refused(reason: str) -> int:
    sys.stderr.write(f"{reason}\n")
    return 1


def unpacked(archive: Path, place: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(place, filter="data")
    return place / archive.name.removesuffix(".tar.gz")


def not_in(source: Path) -> list[str]:
    """What git keeps and the source distribution does not."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    return sorted(
        path for path in listed.stdout.splitlines() if path not in LEFT_OUT and not (source / path).exists()
    )


def built_wheel(source: Path, place: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    run([*pip, "--wheel-dir", place / "wheels", source], place)
    (wheel,) = (place / "wheels").iterdir()
    return wheel


def run(command: list[str | Path], place: Path) -> None:
    subprocess.run(command, cwd=place, check=True)


if __name__ == "__main__":
    sys.exit(main())
