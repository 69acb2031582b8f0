"""What does the doctor find, and how is it put into words?"""

from dataclasses import dataclass
from typing import Literal

LONGEST = 1_000


@dataclass(frozen=True)
class Finding:
    """The result of one examination. The text holds no secret, no password and no token."""

    subject: str
    verdict: Literal["good", "warning", "bad"]
    text: str


def span(seconds: float) -> str:
    """Return a duration in words, such as "15 minutes"."""
    units = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}
    unit = next((unit for unit, size in units.items() if seconds >= size), "second")
    count = round(seconds / units[unit])
    return f"{count} {unit}{'' if count == 1 else 's'}"


def shown(value: object) -> str:
    """Return a claim in ASCII without control characters, which could change what a terminal shows; not too long."""
    return (ascii(value)[1:-1] if isinstance(value, str) else ascii(value))[:100]


def printable(text: str) -> str:
    """Return what a server or the environment says without what could change what a terminal shows."""
    return "".join(each if each.isprintable() else "?" for each in text[:LONGEST])
