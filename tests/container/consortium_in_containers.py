"""A hub and four invented hospitals in containers, by the compose files that are shipped and the commands that they show.

A test's own override file gives each hospital a network of its own, and builds what is under test; it takes nothing away.
"""

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.cis_conversion.synthetic import write_hospitals

DOCKER = Path(__file__).resolve().parents[2] / "docker"
HUB = "hub.example.org"
PATIENTS = (160, 120, 90, 70)
SITES = tuple(f"hospital-{number}" for number in range(1, len(PATIENTS) + 1))
HOME = "/var/lib/wardround"
CALL_S = 300.0
UP_S = 600
BUILD_S = 1500.0
WHEELS_PORT = 8099
POLICY = """version: 1
budget_epsilon: 1000.0
max_epsilon_per_plan: 1000.0
allow_non_private: true
tasks: {cis_conversion: "*"}
leads: ["lead-a"]
auto_approve: true
"""


class EngineError(AssertionError):
    """A call of the engine that failed, with its last words."""


def docker(*words: str, env: Mapping[str, str] | None = None, limit_s: float = CALL_S, ok: tuple[int, ...] = (0,)) -> str:
    """Standard output of `docker WORDS`; `EngineError` if its exit status is not in `ok`."""
    done = subprocess.run(
        ["docker", *words],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    if done.returncode not in ok:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise EngineError(f"docker {' '.join(words)}: exit status {done.returncode}\n{last}")
    return done.stdout


def wait_until(claim: Callable[[], bool], what: str, limit_s: float = 120.0) -> None:
    end = time.monotonic() + limit_s
    while not claim():
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit_s:.0f} s: {what}")
        time.sleep(0.5)


@dataclass(frozen=True)
class Project:
    """One `docker compose` project: a shipped file, a test's override, the environment of whoever starts it."""

    name: str
    file: Path
    override: Path
    env: Mapping[str, str]

    def __call__(self, *words: str, limit_s: float = CALL_S, ok: tuple[int, ...] = (0,)) -> str:
        files = ("-f", str(self.file), "-f", str(self.override))
        return docker("compose", "-p", self.name, *files, *words, env=self.env, limit_s=limit_s, ok=ok)

    def up(self, *services: str) -> None:
        self("up", "--detach", "--wait", "--wait-timeout", str(UP_S), *services, limit_s=UP_S + 60)

    def up_with(self, profile: str) -> None:
        """The service that is called like its profile, beside what runs."""
        self("--profile", profile, "up", "--detach", "--wait", "--wait-timeout", str(UP_S), profile, limit_s=UP_S + 60)

    def container(self, service: str) -> str:
        return self("ps", "--all", "--quiet", service).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(docker("inspect", self.container(service)))
        return found[0]

    def health(self, service: str) -> str:
        return str(self.inspect(service)["State"]["Health"]["Status"])

    def python(self, service: str, program: str, *words: str) -> Any:
        """What `program` prints, as JSON; run inside a running service, as its user."""
        return json.loads(self("exec", "-T", service, "python", "-c", program, *words))


@contextmanager
def wheels() -> Iterator[dict[str, str]]:
    """Build arguments: the base image, and wheels that this machine has in a folder, served to builds on loopback."""
    arguments = {"BASE_IMAGE": base} if (base := os.environ.get("WARDROUND_BASE_IMAGE")) else {}
    shown = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    settings = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    folder = next((settings[key].strip("'") for key in (":env:.find-links", "global.find-links") if key in settings), "")
    if not folder or not Path(folder).is_dir():
        yield {**arguments, **({"PIP_FIND_LINKS": folder} if folder else {})}
        return
    handler = functools.partial(_Quiet, directory=folder)
    with _listening(handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {**arguments, "PIP_FIND_LINKS": f"http://127.0.0.1:{server.server_port}/"}
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _listening(handler: Callable[..., _Quiet]) -> http.server.ThreadingHTTPServer:
    """On the same port whenever it is free: a layer that was built from another address would be built anew."""
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", WHEELS_PORT), handler)
    except OSError:
        return http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)


class Consortium:
    """`with Consortium(folder) as it`: images built, everybody enrolled and healthy; at the end all is gone but the images."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.arguments: dict[str, str] = {}
        self.hub = self._project("hub", "compose.hub.yaml", {"WARDROUND_HUB_PORT": str(port), "WARDROUND_MLFLOW_PORT": "0"}, 0)
        write_hospitals(folder / "patients", len(PATIENTS), PATIENTS, seed=1)
        self.sites = {
            site: self._project(
                site,
                "compose.site.yaml",
                {"WARDROUND_DATA": str(folder / "patients" / site), "WARDROUND_GUARD_MEMORY": "1500m"},
                at,
            )
            for at, site in enumerate(SITES, start=1)
        }

    def _project(self, name: str, file: str, env: Mapping[str, str], at: int) -> Project:
        handed_in = self.folder / name
        handed_in.mkdir(parents=True)
        handed_in.chmod(0o755)
        images = {f"WARDROUND_{part.upper()}_IMAGE": f"wardround-{part}:under-test" for part in ("site", "hub")}
        override = handed_in / "override.json"  # JSON is YAML
        override.write_text(json.dumps(_override(file, at)))
        return Project(f"wardround-test-{name}", DOCKER / file, override, {**images, "WARDROUND_IN": str(handed_in), **env})

    def __enter__(self) -> "Consortium":
        try:
            self.down()  # of a test run that was killed
            with wheels() as self.arguments:
                self.build(next(iter(self.sites.values())))
                self.build(self.hub)
            self.enrol()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def down(self) -> None:
        for project in (*self.sites.values(), self.hub):
            project("--profile", "*", "down", "--volumes", "--timeout", "5")

    def build(self, project: Project, **arguments: str) -> None:
        given = [word for name, value in {**self.arguments, **arguments}.items() for word in ("--build-arg", f"{name}={value}")]
        project("--profile", "setup", "build", "--quiet", *given, "setup", limit_s=BUILD_S)

    def lead(self, *words: str, limit_s: float = CALL_S, ok: tuple[int, ...] = (0,)) -> str:
        return self.hub("exec", "-T", "hub", "wardround-lead", *words, limit_s=limit_s, ok=ok)

    def steward(self, site: str, *words: str, ok: tuple[int, ...] = (0,)) -> str:
        return self.sites[site]("exec", "-T", "guard", "wardround-site", *words, ok=ok)

    def enrol(self) -> None:
        """From nothing to a joined consortium: three commands at each site (init, join, up)."""
        setup = ("run", "--rm", "-T", "setup")
        founding = ("--consortium", "in-containers", "--lead", "lead-a", "--host", HUB, "--json")
        founded = json.loads(self.hub(*setup, "hub", "init", *founding))
        self.hub.up()
        for name, site in self.sites.items():
            task = ("--task", "cis_conversion", "--data", "/data")
            request = site(*setup, "--json", "init", "--id", name, *task)
            (self.hub.override.parent / f"{name}.json").write_text(request)
            site.override.with_name("policy.yaml").write_text(POLICY)
        invite = self.admit(list(self.sites))
        for site in self.sites.values():
            site.override.with_name("invite.json").write_text(invite)
            site(*setup, "join", "/in/invite.json", "--founders", founded["founders"])
        starts = [threading.Thread(target=site.up) for site in self.sites.values()]
        for start in starts:
            start.start()
        for start in starts:
            start.join()
        for name, site in self.sites.items():
            assert (site.health("guard"), site.health("gateway")) == ("healthy", "healthy"), name

    def admit(self, names: list[str]) -> str:
        """The lead's part, one command, once the sites' requests lie in the hub's ./in; returns the invite."""
        told = [f"--told={json.loads((self.hub.override.parent / f'{name}.json').read_text())['fingerprint']}" for name in names]
        address, invite = ("--hub", f"{HUB}:{self.port}"), ("--out", f"{HOME}/invite.json")
        self.lead("roster", "add-site", *(f"/in/{name}.json" for name in names), *told, *address, *invite)
        return self.hub("exec", "-T", "hub", "cat", f"{HOME}/invite.json")

    def plan(self, run_id: str, *overrides: str) -> str:
        """A signed plan's file, in the hub."""
        sizes = [
            f"federation.sites.{site}={round(patients * 0.8 / 10) * 10}" for site, patients in zip(SITES, PATIENTS, strict=True)
        ]
        words = ("task=cis_conversion", "federation=roster", f"run_id={run_id}", *sizes, *overrides)
        made = json.loads(self.lead("plan", *words, "--json"))
        self.lead("sign", made["file"])
        return str(made["file"])

    def status(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.lead("status", run_id, "--json"))
        return found

    def verified(self, site: str) -> dict[str, Any]:
        """What an auditor finds in the site's ledger, offline."""
        ledger = self.folder / f"{site}.ledger.jsonl"
        ledger.write_text(self.sites[site]("exec", "-T", "guard", "cat", f"{HOME}/ledger.jsonl"))
        done = subprocess.run(
            [sys.executable, "-m", "privacy.cli", "verify", str(ledger), "--json"], capture_output=True, text=True, check=False
        )
        found: dict[str, Any] = json.loads(done.stdout)["ledgers"][0]
        return found


def _override(file: str, at: int) -> dict[str, Any]:
    soon = {"interval": "5s", "timeout": "60s", "retries": 3}  # a busy machine is no reason to call anybody ill
    built = {"build": {"network": "host"}}  # the engine of scripts/engine has no other for a build
    subnet = f"10.210.{at}."
    network = {"ipam": {"config": [{"subnet": f"{subnet}0/24", "gateway": f"{subnet}1"}]}}
    if file == "compose.hub.yaml":
        return {
            "services": {"hub": {"healthcheck": soon}, "setup": built},
            "networks": {
                "outside": network,
                "tracking": {"ipam": {"config": [{"subnet": "10.210.200.0/24"}]}},
                "desk": {"ipam": {"config": [{"subnet": "10.210.201.0/24"}]}},
            },
        }
    desk = {"ipam": {"config": [{"subnet": f"10.210.{100 + at}.0/24"}]}}
    gateway = {"healthcheck": soon, "extra_hosts": [f"{HUB}:{subnet}1"]}  # by the port that the hub's machine publishes
    return {
        "services": {"guard": {"healthcheck": soon}, "gateway": gateway, "setup": built},
        "networks": {"outbound": network, "desk": desk},
    }
