"""The demo's input: lines with a key that says where they come from."""

import sysconfig
from collections.abc import Iterator, Sequence
from itertools import chain, islice, repeat
from pathlib import Path

from rlog.errors import ConfigurationError


class Source:
    """Every line of the files given, in order, repeated until there are `records`; key = "PATH:LINE".

    It is read from the files each time, so that checking the log against it needs no memory.
    Raises ConfigurationError when the files hold no line.
    """

    def __init__(self, files: Sequence[tuple[str, Path]], records: int) -> None:
        self._files = files
        self.records = records
        try:
            if next(self._once(), None) is None:
                raise ConfigurationError("the demo's input holds no line")
        except OSError as error:
            raise ConfigurationError(f"cannot read the demo's input: {error}") from error

    @classmethod
    def standard_library(cls, records: int) -> "Source":
        """The sources of this interpreter's standard library, by name."""
        top = Path(sysconfig.get_path("stdlib"))
        files = sorted(path for path in top.rglob("*.py") if "site-packages" not in path.parts)
        return cls([(str(path.relative_to(top)), path) for path in files], records)

    @classmethod
    def file(cls, path: Path, records: int) -> "Source":
        return cls([(path.name, path)], records)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of each record, the same in each iteration as long as the files are."""
        return islice(chain.from_iterable(self._once() for _ in repeat(None)), self.records)

    def _once(self) -> Iterator[tuple[bytes, bytes]]:
        for name, path in self._files:
            prefix = f"{name}:".encode()
            with path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    yield prefix + str(number).encode(), line.rstrip(b"\r\n")
