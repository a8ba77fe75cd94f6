"""The list of parts names what is in the image."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from consortium_in_containers import Consortium, docker

pytestmark = [pytest.mark.container, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[2]
VERSION = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"


def test_the_list_of_parts_names_python_and_debian_packages_by_their_version(consortium: Consortium, tmp_path: Path) -> None:
    del consortium  # builds the images
    image = "wardround-site:under-test"
    words = (sys.executable, str(ROOT / "scripts" / "sbom.py"), image, "--out", str(tmp_path))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "wardround-site_under-test.cdx.json").read_text())["components"]
    named = {part["name"]: part["version"] for part in parts}
    for package in ("torch", "flwr", "wardround"):
        entry = ("run", "--rm", "--network", "none", "--entrypoint", "python", image)
        assert named[package] == docker(*entry, "-c", VERSION, package).strip()
    assert "libc6" in named
    assert "GB" in done.stdout


def test_an_image_that_is_not_there_is_an_error_in_words(tmp_path: Path) -> None:
    words = (sys.executable, str(ROOT / "scripts" / "sbom.py"), "wardround-none:0", "--out", str(tmp_path))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "wardround-none:0" in done.stderr
