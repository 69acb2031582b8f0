"""What does a PostgreSQL URL, as the Neon console hands it out, mean to asyncpg?"""

import re
import ssl
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from backend.certificates import verifying_context

MAX_PORT = 65_535
SCHEMES = {"postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg"}
AMBIGUOUS = (
    "can be read in more than one way: percent-encode user name, password and options (an @ as %40, a / as %2F, a : as "
    "%3A, a ? as %3F, a # as %23, a % as %25), and name one host"
)

# A subset of RFC 3986, section 2. About everything else parsers disagree, and some would read a part of the password as
# host or port. They also disagree about a : in the password, and about a + or a second = in an option.
_BYTE = "%[0-9A-Fa-f]{2}"
_TEXT = f"(?:[A-Za-z0-9._~!$&'()*+,;=-]|{_BYTE})*"
_HOST = rf"(?:\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._-]+)?\]|[A-Za-z0-9._-]+|%2[Ff]{_TEXT})"
_OPTION = f"[A-Za-z_]+=(?:[A-Za-z0-9._~!$'()*,/:-]|{_BYTE})*"
_URL = re.compile(
    f"[a-z+]+://(?:{_TEXT}(?::{_TEXT})?@)?(?:{_HOST}(?::(?:[1-9][0-9]{{0,4}})?)?)?(?:/{_TEXT})?"
    rf"(?:\?(?:{_OPTION}(?:&{_OPTION})*)?)?"
)

# The options that asyncpg understands as libpq does (PostgreSQL documentation, section 34.1.2), and their values.
_ANY = "(?s:.+)"
_PASSED_ON = {
    "host": r"/[^,]*|[A-Za-z0-9._-]+", "port": "[1-9][0-9]{0,4}", "user": _ANY, "password": _ANY, "dbname": _ANY,
    "application_name": _ANY, "options": _ANY, "passfile": _ANY,
    "target_session_attrs": "any|read-write|read-only|primary|standby|prefer-standby",
    "sslmode": "disable|allow|prefer|require|verify-ca|verify-full",
    "sslcert": _ANY, "sslkey": _ANY, "sslpassword": _ANY, "sslrootcert": _ANY, "sslcrl": _ANY, "sslnegotiation": _ANY,
    "ssl_min_protocol_version": _ANY, "ssl_max_protocol_version": _ANY,
}  # fmt: skip
_TRANSLATED = {"channel_binding": "disable|prefer|require", "connect_timeout": "[0-9]{1,9}"}
_OPTIONS = _PASSED_ON | _TRANSLATED
_SECRET_OPTIONS = {"password", "sslpassword"}


def connect_arguments(url: str) -> dict[str, Any]:
    """Return the keyword arguments for `asyncpg.connect`; raise ValueError, whose text holds no value of the URL.

    asyncpg has no channel binding. Verifying the server's certificate protects against a man in the middle as well, so
    `channel_binding=require` turns that on.
    """
    parts = _split(url)
    options = _options(parts)
    # Never left out, or PGPORT would decide.
    port = parts.port or int(options.pop("port", 5432))
    if port > MAX_PORT:
        raise ValueError("names a port that does not exist")
    arguments: dict[str, Any] = {"port": port}
    if timeout := options.pop("connect_timeout", None):
        arguments |= {"timeout": float(timeout)} if int(timeout) else {}  # as in libpq, zero means no limit
    if context := _verifying_context(options):
        arguments["ssl"] = context
    arguments["dsn"] = parts._replace(scheme="postgresql", query=urlencode(options, quote_via=quote)).geturl()
    return arguments


def _verifying_context(options: dict[str, str]) -> ssl.SSLContext | None:
    """Return what verifies the server's certificate, if these options ask for it and asyncpg cannot do it; and remove
    them."""
    system_roots = options.get("sslrootcert") == "system"
    if options.pop("channel_binding", "prefer") != "require" and not system_roots:
        return None
    if options.pop("sslmode", "require") in {"disable", "allow", "prefer"}:
        raise ValueError("asks for a verified server and allows a connection without TLS at the same time")
    authorities = options.pop("sslrootcert", None)
    try:
        return verifying_context(None if system_roots else authorities)
    except OSError:
        raise ValueError("has an sslrootcert that cannot be read or holds no certificate") from None


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
    if not label.endswith("-pooler"):
        return url
    return parts._replace(netloc=f"{credentials}{at}{label.removesuffix('-pooler')}{dot}{domain}").geturl()


def place(url: str) -> tuple[str, int, str]:
    """Return host, port and database of a URL that `connect_arguments` has accepted."""
    parts = urlsplit(url)
    options = {"port": "5432"} | dict(parse_qsl(parts.query))
    host = unquote(parts.hostname or "") or options["host"]
    return host, parts.port or int(options["port"]), unquote(parts.path.strip("/")) or options["dbname"]


def host(url: str) -> str:
    """Return the host of a URL that `connect_arguments` has accepted, or "a socket"."""
    name = place(url)[0]
    return "a socket" if name.startswith("/") else name


def _split(url: str) -> SplitResult:
    if url.partition("://")[0] not in SCHEMES:
        raise ValueError("does not begin with postgresql://")
    if not _URL.fullmatch(url) or "%00" in url:
        raise ValueError(AMBIGUOUS)
    try:
        unquote(url, errors="strict")
        parts = urlsplit(url)
        _ = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError:
        raise ValueError("is not a URL") from None
    return parts


def _options(parts: SplitResult) -> dict[str, str]:
    """Return the options of the query; raise ValueError if they, or the URL as a whole, cannot work."""
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    if unknown := sorted(set(options) - set(_OPTIONS)):
        # If the password has an unescaped &, its parts look like unknown options.
        names = "" if _SECRET_OPTIONS & set(options) else f": {', '.join(unknown)}"
        raise ValueError(f"has options that are not supported{names}")
    if odd := sorted(name for name, value in pairs if not re.fullmatch(_OPTIONS[name], value)):
        raise ValueError(f"has options with a value that PostgreSQL does not know: {', '.join(odd)}")
    before = {"user": parts.username, "password": parts.password, "host": parts.hostname, "port": parts.port}
    said = [*options, *(name for name, value in {**before, "dbname": parts.path.strip("/")}.items() if value)]
    # Of two values libpq takes the last, asyncpg the first.
    if len(options) < len(pairs) or len(set(said)) < len(said):
        raise ValueError("says the same thing in two places")
    if "host" not in said:
        raise ValueError("names no host")
    if "dbname" not in said:
        raise ValueError("names no database")
    return options
