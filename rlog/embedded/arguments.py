"""Numbers that callers hand in. What is written of them is written for ever, so none is taken as it comes."""

import operator
from typing import SupportsIndex


def integer(name: str, value: SupportsIndex) -> int:
    """`value` as an int. Raises TypeError, which names it, for what is none: a float, a bool, a str."""
    if isinstance(value, bool):
        raise TypeError(f"{name}={value!r} is not an integer")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} is not an integer") from None
