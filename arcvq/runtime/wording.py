"""Numbers and counts as they stand in captions and messages."""

from collections.abc import Iterable
from typing import SupportsFloat


def counted(count: int, noun: str) -> str:
    """A number of things: "1 code", "1,200 codes", "2 classes"."""
    if count != 1:
        noun += "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}"


def capitalized(text: str) -> str:
    """Capitalize the first letter alone, so that "PSNR" stays as it is."""
    return text[:1].upper() + text[1:]


def short(number: SupportsFloat, digits: int = 3) -> str:
    """A number with two or three digits, or with all those before the point if these are more.

    From 10 on, a number that is not whole keeps its first decimal, also where this is 0.
    """
    value = float(number)
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10 and not value.is_integer():
        return f"{value:.1f}"
    return f"{value:.{digits}g}"


def span(numbers: Iterable[SupportsFloat], digits: int = 3) -> str:
    """The least and the greatest of some numbers: "0.5 to 2", or "1" if both read the same."""
    values = [float(number) for number in numbers]
    low = short(min(values), digits)
    high = short(max(values), digits)
    return low if low == high else f"{low} to {high}"
