"""What does an error of the database mean: was anything done, may it be tried again, who must mend it?"""

import errno
import logging
import ssl

from asyncpg import exceptions as postgres

logger = logging.getLogger(__name__)

Errors = tuple[type[BaseException], ...]

BEHIND = "is missing or behind: run `python -m backend migrate`"
POOLER = "a pooler mixes prepared statements up: set DATABASE_PREPARED_STATEMENTS=false"

# The line broke, or nobody answered: what was sent may have been done. asyncpg lets the first four through as they are.
BROKEN: Errors = (
    OSError,
    TimeoutError,
    postgres.InterfaceError,
    postgres.InternalClientError,
    postgres.PostgresConnectionError,  # class 08
    postgres.AdminShutdownError,
    postgres.CrashShutdownError,
    postgres.IdleSessionTimeoutError,
    postgres.InvalidCachedStatementError,
)
# asyncpg or the server has noticed before anything was done that the connection is of no use.
UNSENT: Errors = (postgres.InterfaceError, postgres.InternalClientError, postgres.InvalidCachedStatementError)
# The server has said that it did nothing, and may do it later.
REFUSED: Errors = (
    postgres.CannotConnectNowError,
    postgres.InsufficientResourcesError,  # class 53: too many connections, disk full
    postgres.OperatorInterventionError,  # class 57: cancelled
    postgres.ReadOnlySQLTransactionError,
    postgres.PostgresSystemError,  # class 58
    postgres.TransactionRollbackError,  # class 40: deadlock, serialization
    postgres.LockNotAvailableError,
)
# The server, or the library for TLS, has said that it does nothing until somebody changes something. Other errors of
# TLS are a line that broke during the handshake.
LASTING: Errors = (
    ssl.SSLCertVerificationError,
    postgres.InvalidAuthorizationSpecificationError,  # class 28
    postgres.InvalidCatalogNameError,
    postgres.InsufficientPrivilegeError,
)
# Whatever is tried, the same comes back until somebody follows the hint.
MISTAKEN: dict[type[BaseException], tuple[str, str]] = {
    postgres.UndefinedTableError: ("schema-behind", f"the schema {BEHIND}"),
    postgres.UndefinedColumnError: ("schema-behind", f"the schema {BEHIND}"),
    postgres.DuplicatePreparedStatementError: ("prepared-statements", POOLER),
    postgres.InvalidSQLStatementNameError: ("prepared-statements", POOLER),
}
UNREACHABLE: Errors = BROKEN + REFUSED + LASTING + tuple(MISTAKEN)
# While connecting nothing has been sent, whatever the server says: Neon's proxy reports its own trouble as XX000, and a
# database that takes no connections answers 55000.
NOT_CONNECTED: Errors = (*UNREACHABLE, postgres.PostgresError)

# What keeps a process from being ready, in one word; the first that fits.
_OBSTACLES: tuple[tuple[Errors, str], ...] = (
    ((ssl.SSLCertVerificationError,), "certificate"),
    ((postgres.InvalidAuthorizationSpecificationError,), "credentials"),
    ((postgres.InvalidCatalogNameError,), "database"),
    ((postgres.UndefinedTableError, postgres.UndefinedColumnError), "schema"),
    ((postgres.DuplicatePreparedStatementError, postgres.InvalidSQLStatementNameError), "pooler"),
    ((postgres.InsufficientPrivilegeError,), "rights"),
    ((postgres.ReadOnlySQLTransactionError,), "read-only"),
    (BROKEN, "unreachable"),
)
OBSTACLES = (*(word for _, word in _OBSTACLES), "refused")


def may_pass(error: BaseException) -> bool:
    """Whether another try to connect may do better."""
    return isinstance(error, NOT_CONNECTED) and not isinstance(error, LASTING + tuple(MISTAKEN))


def is_full(error: BaseException) -> bool:
    """Whether the server has no connection left for us, or this process no file for one."""
    return isinstance(error, postgres.TooManyConnectionsError) or getattr(error, "errno", None) == errno.EMFILE


def obstacle(error: BaseException) -> str:
    """Return in one word of OBSTACLES what keeps the database from serving."""
    return next((word for kinds, word in _OBSTACLES if isinstance(error, kinds)), "refused")


def log_failure(error: BaseException) -> None:
    event, hint = MISTAKEN.get(type(error), ("unavailable", ""))
    logger.error("The database cannot serve%s: %s", hint and f", {hint}", describe(error), extra={"event": event})


def unreadable_date() -> str:
    """Say what to look for where asyncpg cannot read a row: the server's calendar is longer than Python's."""
    where = beyond_calendar("created_at", "updated_at")
    return f"A task has a date before the year 1 or after 9999; to find it: SELECT id FROM task WHERE {where}"  # noqa: S608 - ours


def beyond_calendar(*times: str) -> str:
    """Return in SQL the condition for rows with a date that Python cannot hold in every time zone."""
    return " OR ".join(f"{time} NOT BETWEEN '0001-01-02' AND '9999-12-30'" for time in times)


def describe(error: BaseException) -> str:
    """Return the error in one line for the log; a driver's words never reach a client."""
    return f"{type(error).__name__}: {error}".replace("\n", " ")
