"""What does the environment decide?"""

import hashlib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BeforeValidator,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backend.database.url import connect_arguments
from backend.errors import OperatorError

ENV_FILE = Path(__file__).with_name(".env")
HINT = "Set them in the environment or in backend/.env; backend/.env.example explains each."

# Better Auth's fallback when BETTER_AUTH_SECRET is unset, and the specification's sample: both are published.
FALLBACK_SECRET = "better-auth-secret-12345678901234567890"  # noqa: S105 - public, and refused
SAMPLE_SECRET_SHA256 = "b6c4b0aa38e901c9eef53116de756f2bc0d6a29ba647fa264bd1ccc97fe8ab84"  # noqa: S105 - refused

# RFC 7518, section 3.2: an HS256 key has at least the size of the hash.
MIN_SECRET_BYTES = 32

_url = TypeAdapter(AnyHttpUrl)
NO_ADDRESS = "must be an address such as http://localhost:3000"


class SettingsError(OperatorError):
    """Settings are missing or invalid: names each with the reason, and shows no value."""

    def __init__(self, complaints: Mapping[str, str]) -> None:
        lines = [f"  {name} {reason}" for name, reason in complaints.items()]
        super().__init__("\n".join(["The configuration is not complete:", *lines, HINT]))
        self.complaints = complaints


def _address(url: str) -> AnyHttpUrl:
    try:
        address = _url.validate_python(url)
    except ValidationError:
        raise ValueError(NO_ADDRESS) from None
    # With an unescaped / or ? in the password, its beginning was read as the port, and the @ is in what follows.
    if "@" in f"{address.path}{address.query}{address.fragment}":
        raise ValueError(NO_ADDRESS)
    return address


def origin(url: str) -> str:
    """Return the WHATWG origin of an http(s) URL: lower-case host, no default port, no path."""
    parsed = _address(url)
    if "*" in (parsed.host or ""):
        raise ValueError("must name each origin: there are no wildcards")
    default_port = {"http": 80, "https": 443}[parsed.scheme]
    port = "" if parsed.port in {None, default_port} else f":{parsed.port}"
    return f"{parsed.scheme}://{parsed.host}{port}"


def _comma_separated(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _network(address: str) -> str:
    try:
        ip_network(address, strict=False)
    except ValueError:
        raise ValueError("must be IP addresses or networks such as 10.0.0.0/8") from None
    return address


Origin = Annotated[str, AfterValidator(origin)]
Network = Annotated[str, AfterValidator(_network)]
Address = Annotated[str, AfterValidator(lambda url: str(_address(url)))]
Listed = (NoDecode, BeforeValidator(_comma_separated))
Level = Annotated[
    Literal["debug", "info", "warning", "error"],
    BeforeValidator(lambda level: level.lower() if isinstance(level, str) else level),
]
Loaded = TypeVar("Loaded", bound="DatabaseSettings")


class DatabaseSettings(BaseSettings):
    """Which database? All that a migration asks the environment."""

    model_config = SettingsConfigDict(
        frozen=True, env_file=ENV_FILE, env_file_encoding="utf-8", extra="ignore", hide_input_in_errors=True,
        validate_default=True,
    )  # fmt: skip

    environment: Literal["production", "development"] = "production"
    neon_database_url: SecretStr | None = None

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value != ""}

    @field_validator("neon_database_url")
    @classmethod
    def _database_url_is_usable(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if url is not None:
            connect_arguments(url.get_secret_value())
        elif info.data.get("environment") != "development":
            raise ValueError("is missing")
        return url

    @property
    def database_url(self) -> str:
        """The URL with its password; the CLI sets it before anything asks."""
        if self.neon_database_url is None:
            raise SettingsError({"NEON_DATABASE_URL": "is missing"})
        return self.neon_database_url.get_secret_value()


class Settings(DatabaseSettings):
    """Every setting, by the name of its environment variable in lower case; the environment beats `backend/.env`."""

    better_auth_secret: SecretStr
    better_auth_url: Origin

    better_auth_mode: Literal["auto", "secret", "jwks"] = "auto"
    better_auth_secret_previous: SecretStr | None = None
    better_auth_jwks_url: Address | None = Field(default=None, repr=False)  # it may hold a password
    better_auth_issuers: Annotated[tuple[str, ...], *Listed] = ()
    better_auth_audiences: Annotated[tuple[str, ...], *Listed] = ()
    cors_origins: Annotated[tuple[Origin, ...], *Listed] = ()
    trusted_proxies: Annotated[tuple[Network, ...], *Listed] = ()
    api_docs: bool = False
    database_pool_size: Annotated[int, Field(ge=1, le=1000)] | None = None
    workers: Annotated[int, Field(ge=1)] = 1
    database_prepared_statements: bool = True
    metrics_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    metrics_host: str | None = None
    log_format: Literal["json", "text"] = "json"
    log_level: Level = "info"
    log_probes: bool = False
    log_users: Literal["plain", "hashed"] = "plain"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] = 8000
    stop_delay: Annotated[float, Field(ge=0, le=300)] = 0
    drain_seconds: Annotated[int, Field(ge=0, le=300)] = 30
    request_deadline: Annotated[float, Field(gt=0, le=300)] = 10
    keep_alive: Annotated[float, Field(ge=1, le=3_600)] = 130
    max_connections: Annotated[int, Field(ge=1, le=100_000)] | None = None

    @field_validator("better_auth_secret", "better_auth_secret_previous")
    @classmethod
    def _secret_is_secret(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is None:
            return None
        try:
            key = secret.get_secret_value().encode()
        except UnicodeEncodeError:
            raise ValueError("must be valid UTF-8") from None
        if key == FALLBACK_SECRET.encode():
            raise ValueError("is Better Auth's published fallback, which anyone can sign with")
        if info.data.get("environment") != "development":
            if hashlib.sha256(key).hexdigest() == SAMPLE_SECRET_SHA256:
                raise ValueError("is the published sample, which anyone can sign with")
            if len(key) < MIN_SECRET_BYTES:
                raise ValueError("must have at least 32 bytes; `openssl rand -hex 32` makes a good one")
        return secret

    @property
    def secrets(self) -> list[bytes]:
        """The keys of HS256 tokens: the shared secret, and the previous one while it is being replaced."""
        both = (self.better_auth_secret, self.better_auth_secret_previous)
        return [secret.get_secret_value().encode() for secret in both if secret]

    @property
    def issuers(self) -> tuple[str, ...]:
        """Whose tokens are accepted: the frontend's, unless a setting names others."""
        return self.better_auth_issuers or (self.better_auth_url,)

    @property
    def audiences(self) -> tuple[str, ...]:
        """For whom a token may be: the frontend itself, unless a setting names others."""
        return self.better_auth_audiences or (self.better_auth_url,)

    @property
    def key_set_url(self) -> str:
        """Where Better Auth publishes its keys, unless a setting says otherwise."""
        return self.better_auth_jwks_url or f"{self.better_auth_url}/api/auth/jwks"


def load_settings(**overrides: Any) -> Settings:
    """Read the environment and `backend/.env`; raise SettingsError with all that is wrong."""
    return _load(Settings, **overrides)


def load_database_url() -> str:
    """Read which database it is, with its password, and nothing else; raise SettingsError."""
    return _load(DatabaseSettings).database_url


def _load(kind: type[Loaded], **overrides: Any) -> Loaded:
    try:
        return kind(**overrides)
    except ValidationError as error:
        raise SettingsError(dict(_complaint(problem) for problem in error.errors())) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError({str(ENV_FILE): f"cannot be read ({type(error).__name__})"}) from None


def _complaint(problem: ErrorDetails) -> tuple[str, str]:
    reason = "is missing" if problem["type"] == "missing" else problem["msg"].removeprefix("Value error, ")
    return str(problem["loc"][0]).upper(), reason
