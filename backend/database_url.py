"""What does a PostgreSQL URL, as the Neon console hands it out, mean to asyncpg?"""

from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from backend.certificates import verifying_context

SCHEMES = {"postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg"}

# What asyncpg reads from a URL with libpq's meaning (PostgreSQL documentation, section 34.1.2).
_PASSED_ON = {
    "host", "port", "user", "password", "dbname", "application_name", "options", "passfile", "target_session_attrs",
    "sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslnegotiation",
    "ssl_min_protocol_version", "ssl_max_protocol_version",
}  # fmt: skip
_TRANSLATED = {"channel_binding", "connect_timeout"}
_VALUES = {
    "channel_binding": {"disable", "prefer", "require"},
    "sslmode": {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
    "target_session_attrs": {"any", "read-write", "read-only", "primary", "standby", "prefer-standby"},
}


def connect_arguments(url: str) -> dict[str, Any]:
    """Return the keyword arguments for `asyncpg.connect`; raise ValueError without any part of the URL's values.

    asyncpg has no channel binding, which protects against a man in the middle; verifying the server's certificate
    does so too, so `channel_binding=require` turns that on.
    """
    parts = _split(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(options) - _PASSED_ON - _TRANSLATED):
        raise ValueError(f"has options that are not supported: {', '.join(unknown)}")
    if odd := sorted(name for name, values in _VALUES.items() if options.get(name) not in {None, *values}):
        raise ValueError(f"has options with a value that PostgreSQL does not know: {', '.join(odd)}")
    arguments: dict[str, Any] = {}
    if timeout := options.pop("connect_timeout", None):
        if not timeout.isdecimal():
            raise ValueError("has a connect_timeout that is not a whole number of seconds")
        # libpq: zero means no limit of its own.
        arguments |= {"timeout": float(timeout)} if int(timeout) else {}
    system_roots = options.get("sslrootcert") == "system"
    if options.pop("channel_binding", "prefer") == "require" or system_roots:
        if options.get("sslmode", "require") in {"disable", "allow", "prefer"}:
            raise ValueError("asks for a verified server and allows a connection without TLS at the same time")
        arguments["ssl"] = verifying_context(None if system_roots else options.get("sslrootcert"))
        options.pop("sslrootcert", None)
        options.pop("sslmode", None)
    arguments["dsn"] = parts._replace(scheme="postgresql", query=urlencode(options, quote_via=quote)).geturl()
    return arguments


def security(url: str) -> str:
    """Return in words how far the URL protects the connection (libpq's sslmode, section 34.19)."""
    arguments = connect_arguments(url)
    mode = dict(parse_qsl(urlsplit(arguments["dsn"]).query)).get("sslmode", "prefer")
    if "ssl" in arguments or mode in {"verify-ca", "verify-full"}:
        return "with TLS and a verified certificate"
    return {"require": "with TLS, the certificate unverified"}.get(mode, "perhaps without TLS")


def direct(url: str) -> str:
    """Return the URL of Neon's direct host for that of its pooler, as https://neon.com/docs/connect/connection-pooling
    asks for migrations; any other URL comes back unchanged."""
    parts = urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    label, dot, domain = host.partition(".")
    return parts._replace(netloc=f"{credentials}{at}{label.removesuffix('-pooler')}{dot}{domain}").geturl()


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in SCHEMES:
        raise ValueError("does not begin with postgresql://")
    if not (parts.hostname or "host=" in parts.query):
        raise ValueError("names no host")
    if parts.path in {"", "/"} and "dbname=" not in parts.query:
        raise ValueError("names no database")
    return parts
