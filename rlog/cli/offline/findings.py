"""What is wrong with a data directory, where, and how much it matters."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["damage", "blemish"]


@dataclass(frozen=True, slots=True)
class Finding:
    """damage: records or decisions are lost, or nobody can prove that they are not. blemish: something beside
    them is wrong, which the next start makes anew from what is intact.

    file: relative to the data directory. position: the byte in it; offset: of the log; None: not known.
    """

    severity: Severity
    file: str
    what: str
    position: int | None = None
    offset: int | None = None

    def fields(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        place = self.file if self.position is None else f"{self.file}, byte {self.position}"
        if self.offset is not None:
            place += f", offset {self.offset}"
        return f"{self.severity.upper()} {place}: {self.what}"
