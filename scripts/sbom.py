"""What is in an image: every Python package of its environment and every Debian package, as CycloneDX 1.6; and its size.

Nothing is installed into the image, and nothing in it is run but its own package tools.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

PACKAGES = "/opt/wardround/lib"
DEBIAN_FIELDS = "${Package}\\t${Version}\\t${Architecture}\\n"


class SbomError(Exception):
    """The list cannot be made; the sentence says of what."""


def inside(image: str, *command: str) -> bytes:
    """What `command` prints in a container of `image` without network."""
    words = ("docker", "run", "--rm", "--network", "none", "--entrypoint", command[0], image, *command[1:])
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode:
        raise SbomError(f"{image}: {command[0]}: {done.stderr.decode(errors='replace').strip() or 'failed'}")
    return done.stdout


def python_parts(image: str) -> dict[str, Any]:
    """The list of the image's Python packages, from the metadata that each was installed with."""
    with tempfile.TemporaryDirectory() as folder:
        packed = inside(image, "sh", "-c", f"cd {PACKAGES}/python3*/site-packages && tar c *.dist-info")
        packages = Path(folder) / "packages"
        packages.mkdir()
        subprocess.run(["tar", "x", "-C", str(packages)], input=packed, check=True)
        interpreter = Path(folder) / "python"  # cyclonedx-py asks an interpreter where its packages lie, and nothing else
        interpreter.write_text(f"#!/bin/sh\necho '{json.dumps([str(packages)])}'\n")
        interpreter.chmod(0o755)
        words = (sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", str(interpreter))
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SbomError(f"{image}: cyclonedx-py: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def debian_parts(image: str) -> list[dict[str, str]]:
    lines = inside(image, "dpkg-query", "--show", f"--showformat={DEBIAN_FIELDS}").decode("utf-8").splitlines()
    parts = []
    for name, version, architecture in (line.split("\t") for line in lines):
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={architecture}"
        parts.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    return parts


def size_of(image: str) -> int:
    """Bytes of all layers of the image."""
    words = ("docker", "image", "inspect", "--format", "{{.Size}}", image)
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def sbom(image: str) -> dict[str, Any]:
    found = python_parts(image)
    found["components"] = [*found.get("components", []), *debian_parts(image)]
    found.setdefault("metadata", {})["component"] = {"type": "container", "name": image, "bom-ref": image}
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(found))
    if problem:
        raise SbomError(f"{image}: not valid CycloneDX 1.6: {problem}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/sbom", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--out", type=Path, required=True, help="folder for the lists; made if absent")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        for image in args.images:
            found = sbom(image)
            file = args.out / f"{image.replace('/', '_').replace(':', '_')}.cdx.json"
            file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            print(f"{image}: {len(found['components'])} parts, {size_of(image) / 1e9:.2f} GB, {file}")
    except (SbomError, subprocess.CalledProcessError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
