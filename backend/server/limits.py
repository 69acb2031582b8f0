"""How many clients may there be, and how long may each of them take?"""

import resource
from dataclasses import dataclass

from backend.errors import OperatorError

# Files that are neither clients nor connections to the database: the log, the event loop, the key set, the metrics.
OTHER_FILES = 32


@dataclass(frozen=True)
class Limits:
    """What a client may take of one process; docs/operations.md lists each value with its reason."""

    connections: int = 1_000
    keep_alive: float = 130
    head_bytes: int = 65_536
    head_seconds: int = 30
    body_seconds: int = 30
    body_bytes_per_second: int = 500
    body_most_seconds: int = 150
    stalled_seconds: int = 30
    linger_seconds: int = 2
    linger_bytes: int = 2_097_152


def most_connections(wanted: int | None, pool_size: int) -> int:
    """Return how many clients the limit of open files leaves room for; raises OperatorError if that is too few."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return wanted or Limits.connections
    # Cancelling a statement opens a second connection to the database for a moment.
    room = files - OTHER_FILES - 2 * pool_size
    if room < (wanted or 1):
        raise OperatorError(
            f"{files} open files are too few for {wanted or 1} clients: the database and other things need "
            f"{files - room}. Raise the limit (ulimit -n), or lower MAX_CONNECTIONS or DATABASE_POOL_SIZE."
        )
    return wanted or min(room, Limits.connections)
