"""Print the requirements of the extras named on the command line, one a line: `extras.py test lint`.

Installing them apart from rlog itself spares a second compilation of the native code.
"""

import sys
import tomllib
from pathlib import Path


def requirements(names: list[str]) -> list[str]:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    return [requirement for name in names for requirement in project["optional-dependencies"][name]]


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(sys.argv[1:])) + "\n")
