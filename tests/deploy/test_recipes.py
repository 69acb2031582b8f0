"""Do the recipes agree with the program, and do others' tools find them right?"""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.tools import path, tool
from servers import ROOT, folder

from backend.settings import Settings

DEPLOY = ROOT / "deploy"
OVERLAYS = ["overlays/one", "overlays/three", "migrate"]
KUBERNETES_VERSIONS = ["1.34.1", "1.37.0"]
# What the policy scanner asks for, and is not done.
NOT_WANTED = [
    "CKV_K8S_15",  # Always pull: then no pod starts while the registry is away; a tag is never used twice
    "CKV_K8S_21",  # a namespace: kubectl's --namespace says which
    "CKV_K8S_35",  # secrets as files: the settings are environment variables
    "CKV_K8S_43",  # a digest: whoever builds the image knows it
]


def rendered(overlay: str) -> str:
    kubectl = shutil.which("kubectl")
    if kubectl is None:  # not a failure of CI: Debian's is too old to know kustomize
        pytest.skip("left out: kubectl is not installed")
    return subprocess.check_output([kubectl, "kustomize", str(DEPLOY / "kubernetes" / overlay)], text=True)


def resources(overlay: str) -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all(rendered(overlay))}


def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())["services"]


@pytest.fixture
def manifests() -> Iterator[list[Path]]:
    with folder() as home:
        # In one file, so that the scanner sees which network policy is whose.
        (home / "all.yaml").write_text("---\n".join(rendered(each) for each in ("overlays/three", "migrate")))
        (home / "one.yaml").write_text(rendered("overlays/one"))
        yield sorted(home.iterdir())


def test_every_recipe_is_explained_on_a_page_of_40_lines_at_most() -> None:
    pages = {each.name: (each / "README.md").read_text().count("\n") for each in DEPLOY.iterdir()}

    assert len(pages) == 8
    assert {name: lines for name, lines in pages.items() if lines > 40} == {}


def test_every_setting_in_a_recipe_is_one() -> None:
    deployment = resources("overlays/one")["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    fly = tomllib.loads((DEPLOY / "fly/fly.toml").read_text())
    render = yaml.safe_load((DEPLOY / "render/render.yaml").read_text())["services"][0]

    named = {each["name"] for each in deployment["env"]} | set(fly["env"]) | {each["key"] for each in render["envVars"]}
    named |= set(compose()["backend"]["environment"])

    assert named - {name.upper() for name in Settings.model_fields} == set()


def test_whoever_stops_the_program_waits_longer_than_it_may_take() -> None:
    default = Settings.model_fields["drain_seconds"].default
    pod = resources("overlays/three")["Deployment"]["spec"]["template"]["spec"]
    fly = tomllib.loads((DEPLOY / "fly/fly.toml").read_text())
    render = yaml.safe_load((DEPLOY / "render/render.yaml").read_text())["services"][0]
    unit = (DEPLOY / "systemd/todo-backend@.service").read_text()

    def needed(variables: dict[str, str]) -> float:
        return float(variables.get("STOP_DELAY", 0)) + float(variables.get("DRAIN_SECONDS", default))

    def seconds(text: str) -> float:
        return float(text.removesuffix("s"))

    patience = {
        "kubernetes": pod["terminationGracePeriodSeconds"]
        - needed({each["name"]: each["value"] for each in pod["containers"][0]["env"]}),
        "fly": seconds(fly["kill_timeout"]) - needed(fly["env"]),
        "render": render["maxShutdownDelaySeconds"]
        - needed({each["key"]: each["value"] for each in render["envVars"] if "value" in each}),
        "compose": seconds(compose()["backend"]["stop_grace_period"]) - needed(compose()["backend"]["environment"]),
        "systemd": float(re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[0]) - needed({}),
        "image": float(re.findall(r"docker stop --time (\d+)", (DEPLOY / "compose/README.md").read_text())[0])
        - needed({}),
    }

    assert {name: left for name, left in patience.items() if left < 5} == {}


def test_no_request_is_sent_to_the_job_that_migrates() -> None:
    chosen = resources("overlays/three")["Service"]["spec"]["selector"]

    labels = resources("migrate")["Job"]["spec"]["template"]["metadata"]["labels"]

    assert not chosen.items() <= labels.items()


def test_all_overlays_name_one_image() -> None:
    images = {image for each in OVERLAYS for image in re.findall(r"image: (.*)", rendered(each))}

    assert len(images) == 1


@pytest.mark.long
@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_kubernetes_knows_every_field(manifests: list[Path], version: str) -> None:
    result = tool("kubernetes-validate", "--strict", "--kubernetes-version", version, *manifests)

    print(result.stdout, result.stderr)
    assert result.returncode == 0


@pytest.mark.long
def test_a_policy_scanner_finds_nothing(manifests: list[Path]) -> None:
    files = [part for file in manifests for part in ("--file", str(file))]
    result = tool(
        "checkov",
        "--framework",
        "kubernetes",
        "--skip-download",
        "--compact",
        "--skip-check",
        ",".join(NOT_WANTED),
        *files,
    )

    print(result.stdout)
    assert result.returncode == 0
    assert "Failed checks: 0" in result.stdout


@pytest.mark.long
def test_compose_knows_every_field() -> None:
    result = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose/compose.yaml")

    assert result.returncode == 0, result.stdout


@pytest.mark.long
@pytest.mark.parametrize("dockerfile", ["Dockerfile", "deploy/compose/frontend.Dockerfile"])
def test_a_linter_finds_nothing_in_the_dockerfiles(dockerfile: str) -> None:
    result = tool("hadolint", ROOT / dockerfile)

    assert result.returncode == 0, result.stdout


def test_caddy_takes_the_file_of_compose() -> None:
    command = [path("caddy"), "validate", "--adapter", "caddyfile", "--config", str(DEPLOY / "compose/Caddyfile")]

    result = subprocess.run(
        command, env={**os.environ, "DOMAIN": "localhost"}, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr
