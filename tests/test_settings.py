"""Does a bad environment stop the start, with every offender named and no value shown?"""

import hashlib
import re
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import Tree, scratch_tree
from people import ORIGIN, SECRET
from pydantic import ValidationError
from servers import free_port

from backend import settings as module
from backend.settings import FALLBACK_SECRET, Settings, SettingsError, load_settings, origin

MANDATORY = ["BETTER_AUTH_SECRET", "BETTER_AUTH_URL", "NEON_DATABASE_URL"]
GOOD = {
    "BETTER_AUTH_SECRET": SECRET,
    "BETTER_AUTH_URL": ORIGIN,
    "NEON_DATABASE_URL": "postgresql://u:MARKER@h.example/d",
}
STATES = {
    "missing": {},
    "empty": dict.fromkeys(MANDATORY, ""),
    "malformed": {
        "BETTER_AUTH_SECRET": "MARKER",
        "BETTER_AUTH_URL": "MARKER.example",
        "NEON_DATABASE_URL": "mysql://u:MARKER@h/MARKER",
    },
}
OPTIONAL = {
    "ENVIRONMENT": "MARKER",
    "BETTER_AUTH_URL": "ftp://MARKER",
    "CORS_ORIGINS": "http://good.example,MARKER",
    "API_DOCS": "MARKER",
    "DATABASE_POOL_SIZE": "0MARKER",
    "DATABASE_PREPARED_STATEMENTS": "MARKER",
    "REQUEST_DEADLINE": "MARKER",
    "TRUSTED_PROXIES": "10.0.0.1,MARKER",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with none of the variables set."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def tree() -> Iterator[Tree]:
    with scratch_tree() as tree:
        yield tree


def load(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, env_file: Path | None = None) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings(_env_file=env_file)


def offenders(message: str) -> list[str]:
    return re.findall(r"^  ([A-Z_]+) ", message, re.MULTILINE)


@pytest.mark.spec("FR-020", "FR-017", "SC-010")
@pytest.mark.parametrize("state", ["missing", "malformed"])
def test_every_production_start_names_all_offenders_at_once_and_shows_no_value(tree: Tree, state: str) -> None:
    commands = [
        ["backend", "serve", "--port", str(free_port())],
        ["uvicorn", "backend.main:app", "--port", str(free_port())],
    ]

    with ThreadPoolExecutor() as threads:
        results = list(threads.map(lambda command: tree.run(*command, variables=STATES[state]), commands))

    for result in results:
        assert result.returncode != 0
        assert sorted(offenders(result.stderr)) == MANDATORY
        assert "MARKER" not in result.stdout + result.stderr
        assert "Traceback" not in result.stderr
    assert not tree.env_file.exists()
    assert not tree.data.exists()


@pytest.mark.spec("FR-020")
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", MANDATORY)
def test_one_bad_variable_is_named_and_no_other(name: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {other: value for other, value in GOOD.items() if other != name}
    variables |= {other: value for other, value in STATES[state].items() if other == name}

    with pytest.raises(SettingsError) as refusal:
        load(variables, monkeypatch)

    assert offenders(str(refusal.value)) == [name]


@pytest.mark.spec("FR-020", "FR-017")
def test_malformed_optional_settings_are_all_named_without_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(GOOD | OPTIONAL, monkeypatch)

    assert sorted(offenders(str(refusal.value))) == sorted(OPTIONAL)
    assert "MARKER" not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.spec("FR-020")
@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        (FALLBACK_SECRET, "published fallback"),
        ("x" * 31, "at least 32 bytes"),
        ("é" * 15, "at least 32 bytes"),
        ("\udcff" * 32, "valid UTF-8"),
    ],
)
def test_a_weak_secret_is_refused_in_production(secret: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(GOOD | {"BETTER_AUTH_SECRET": secret}, monkeypatch)

    assert offenders(str(refusal.value)) == ["BETTER_AUTH_SECRET"]
    assert reason in str(refusal.value)
    assert secret.encode(errors="replace").decode() not in str(refusal.value)


@pytest.mark.parametrize("secret", ["x" * 32, "é" * 16, f" {'x' * 30} ", "$" * 40])
def test_a_secret_of_32_bytes_is_taken_as_it_is(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(GOOD | {"BETTER_AUTH_SECRET": secret}, monkeypatch)

    assert settings.better_auth_secret.get_secret_value() == secret


@pytest.mark.spec("FR-020")
def test_a_secret_known_by_its_hash_is_refused_outside_development(monkeypatch: pytest.MonkeyPatch) -> None:
    known = module.SAMPLE_SECRET_SHA256
    monkeypatch.setattr(module, "SAMPLE_SECRET_SHA256", hashlib.sha256(SECRET.encode()).hexdigest())

    with pytest.raises(SettingsError, match="BETTER_AUTH_SECRET is the published sample"):
        load(GOOD, monkeypatch)
    allowed = load(GOOD | {"ENVIRONMENT": "development"}, monkeypatch)

    assert allowed.better_auth_secret.get_secret_value() == SECRET
    assert known == "b6c4b0aa38e901c9eef53116de756f2bc0d6a29ba647fa264bd1ccc97fe8ab84"


def test_development_takes_a_short_secret_but_never_the_fallback_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    development = GOOD | {"ENVIRONMENT": "development"}

    short = load(development | {"BETTER_AUTH_SECRET": "short"}, monkeypatch)
    with pytest.raises(SettingsError, match="published fallback"):
        load(development | {"BETTER_AUTH_SECRET": FALLBACK_SECRET}, monkeypatch)
    with pytest.raises(SettingsError, match="BETTER_AUTH_SECRET is missing"):
        load(development | {"BETTER_AUTH_SECRET": ""}, monkeypatch)

    assert short.better_auth_secret.get_secret_value() == "short"


@pytest.mark.spec("FR-019")
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://localhost:3000/", "http://localhost:3000"),
        ("HTTP://LocalHost:3000/sign-in?x=1#y", "http://localhost:3000"),
        ("https://Todo.Example:443/app/", "https://todo.example"),
        ("http://todo.example:80", "http://todo.example"),
        ("https://todo.example:80", "https://todo.example:80"),
        ("https://user:password@todo.example", "https://todo.example"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_an_address_is_reduced_to_its_origin(url: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(GOOD | {"BETTER_AUTH_URL": url, "CORS_ORIGINS": f" {url} ,,{url}"}, monkeypatch)

    assert origin(url) == settings.better_auth_url == expected
    assert settings.cors_origins == (expected, expected)


@pytest.mark.parametrize("url", ["localhost:3000", "//todo.example", "*", "null", "file:///etc", "https://", "a b"])
def test_what_is_no_web_address_has_no_origin(url: str) -> None:
    with pytest.raises(ValueError, match=r"^must be an address such as http://localhost:3000$"):
        origin(url)


def test_a_wildcard_is_no_origin() -> None:
    with pytest.raises(ValueError, match=r"^must name each origin: there are no wildcards$"):
        origin("https://*.example")


@pytest.mark.spec("FR-020")
def test_the_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    file.write_text("".join(f"{name}='{value}'\n" for name, value in GOOD.items()) + "DATABASE_POOL_SIZE=3\nPATH=x\n")

    settings = load({"BETTER_AUTH_URL": "https://todo.example"}, monkeypatch, file)

    assert settings.better_auth_url == "https://todo.example"
    assert settings.better_auth_secret.get_secret_value() == SECRET
    assert settings.database_pool_size == 3


@pytest.mark.spec("FR-020")
def test_a_variable_set_to_nothing_is_unset_whatever_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env"
    file.write_text("".join(f"{name}='{value}'\n" for name, value in GOOD.items()))

    settings = load({"NEON_DATABASE_URL": "", "ENVIRONMENT": "development"}, monkeypatch, file)

    assert settings.neon_database_url is None
    with pytest.raises(SettingsError, match="NEON_DATABASE_URL is missing"):
        _ = settings.database_url
    with pytest.raises(SettingsError) as refusal:
        load({"ENVIRONMENT": ""}, monkeypatch, file)
    assert offenders(str(refusal.value)) == ["NEON_DATABASE_URL"]


def test_a_file_that_cannot_be_read_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"BETTER_AUTH_SECRET=\xff\xfe\n")

    with pytest.raises(SettingsError, match=r"cannot be read \(UnicodeDecodeError\)"):
        load(GOOD, monkeypatch, file)


@pytest.mark.spec("FR-017")
def test_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(GOOD, monkeypatch)

    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"

    assert SECRET not in shown
    assert "MARKER" not in shown


@pytest.mark.spec("FR-017")
def test_pydantics_own_errors_show_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (STATES["malformed"] | OPTIONAL).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ValidationError) as error:
        Settings(_env_file=None)

    assert "better_auth_secret" in str(error.value)
    assert "MARKER" not in f"{error.value} {error.value!r}"


@pytest.mark.spec("FR-020", "SC-010")
def test_the_example_lists_every_setting_and_nothing_else() -> None:
    example = (Path(module.__file__).parent / ".env.example").read_text()

    listed = re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", example, re.MULTILINE)

    assert sorted(listed) == sorted(name.upper() for name in Settings.model_fields)
    assert re.findall(r"^([A-Z_]+)=", example, re.MULTILINE) == MANDATORY


@pytest.mark.spec("FR-020")
def test_the_example_shows_the_defaults() -> None:
    example = (Path(module.__file__).parent / ".env.example").read_text()

    shown = re.findall(r"^# ([A-Z][A-Z_]+)=(.+)$", example, re.MULTILINE)

    fields = Settings.model_fields
    assert shown
    assert [(name, value) for name, value in shown if str(fields[name.lower()].default).lower() != value] == []
