"""The images' recipe and the compose files say what docker/README.md promises; no engine is needed to read them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.logs import FORM_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
FILES = ("compose.hub.yaml", "compose.site.yaml")


def services(file: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((DOCKER / file).read_text(encoding="utf-8"))["services"]
    return found


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Place in the container -> what lies there, of every volume that can be written."""
    pairs = [line.rsplit(":", 2) if line.endswith(":ro") else [*line.rsplit(":", 1), "rw"] for line in service["volumes"]]
    return {place: source for source, place, mode in pairs if mode == "rw"}


def test_the_recipe_is_clean() -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint is not installed here")
    done = subprocess.run([program, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_base_image_is_fixed_by_its_digest() -> None:
    [line] = [line for line in (DOCKER / "Dockerfile").read_text().splitlines() if line.startswith("ARG BASE_IMAGE=")]
    assert len(line.partition("@sha256:")[2]) == 64


def test_both_images_log_json_lines() -> None:
    common = (DOCKER / "Dockerfile").read_text().partition(" AS common")[2].partition("FROM common")[0]
    assert f"{FORM_VARIABLE}=json" in common.split()


@pytest.mark.parametrize("file", FILES)
def test_every_service_is_without_rights_and_bounded(file: str) -> None:
    for name, service in services(file).items():
        assert service["user"] == "10001:10001", name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"] == service["memswap_limit"], name
        assert service["pids_limit"] > 0, name
        assert not {"privileged", "cap_add", "devices", "pid", "ipc", "env_file"} & set(service), name
        assert not any("docker.sock" in volume for volume in service["volumes"]), name


def test_the_guard_has_no_network_and_the_gateway_no_data_and_no_key() -> None:
    site = services("compose.site.yaml")
    assert [name for name, service in site.items() if service.get("network_mode") != "none"] == ["gateway", "ui"]
    assert site["gateway"]["volumes"] == ["gateway:/var/lib/wardround/gateway", "socket:/var/lib/wardround/socket:ro"]
    assert mounts(site["guard"]) == {
        "/var/lib/wardround": "state",
        "/var/lib/wardround/gateway": "gateway",
        "/var/lib/wardround/socket": "socket",
        "/var/lib/wardround/prepared": "cache",
    }


def test_nobody_reaches_into_a_hospital_and_the_stewards_page_reaches_nobody() -> None:
    site = services("compose.site.yaml")
    assert {name: service["ports"] for name, service in site.items() if "ports" in service} == {"ui": ["127.0.0.1:8470:8470"]}
    assert (site["ui"]["networks"], site["ui"]["profiles"]) == (["desk"], ["steward"])
    assert not any(volume.endswith(":/data:ro") for volume in site["ui"]["volumes"])
    desk = yaml.safe_load((DOCKER / "compose.site.yaml").read_text())["networks"]["desk"]
    assert desk["driver_opts"] == {"com.docker.network.bridge.enable_ip_masquerade": "false"}


def test_what_the_hub_publishes_is_one_port_and_mlflow_only_on_this_machine() -> None:
    hub = services("compose.hub.yaml")
    assert {name: service["ports"] for name, service in hub.items() if "ports" in service} == {
        "hub": ["${WARDROUND_HUB_ADDRESS:-0.0.0.0}:${WARDROUND_HUB_PORT:-443}:8443"],
        "mlflow": ["127.0.0.1:${WARDROUND_MLFLOW_PORT:-5000}:5000"],
    }


@pytest.mark.parametrize("file", FILES)
def test_the_engine_understands_the_compose_files(file: str, tmp_path: Path) -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker compose on this machine")
    words = ("docker", "compose", "-f", str(DOCKER / file), "--profile", "*", "config", "--quiet")
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={"WARDROUND_DATA": str(tmp_path), **_path()})
    assert done.returncode == 0, done.stderr


def _path() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}


def test_only_what_makes_the_wheel_is_sent_to_a_build() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert allowed == {
        "client",
        "conf",
        "consortium",
        "privacy",
        "secagg",
        "server",
        "tasks",
        "LICENSE",
        "README.md",
        "pyproject.toml",
    }
