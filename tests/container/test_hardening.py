"""What the containers hold, by attempt: the guard reaches nobody, the gateway finds no patient and no key, nobody has rights."""

import json
import os
import signal
from pathlib import Path

import pytest
from consortium_in_containers import HOME, HUB, SITES, Consortium, docker, wait_until

pytestmark = [pytest.mark.container, pytest.mark.timeout(3000)]

ROOT_ALONE = pytest.mark.skipif(os.geteuid() != 0, reason="only root of the engine's machine may do this to a container's process")
SITE = SITES[0]
REACH = """
import json, os, socket, sys
found = {}
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        found[target] = "reached"
    except OSError as error:
        found[target] = type(error).__name__
try:
    socket.getaddrinfo("example.org", 443)
    found["names"] = "resolved"
except OSError as error:
    found["names"] = type(error).__name__
found["interfaces"] = sorted(os.listdir("/sys/class/net"))
print(json.dumps(found))
"""
SEARCH = """
import json, os, sys
words = [bytes.fromhex(word) for word in sys.argv[1:]]
found = {word.hex(): [] for word in words}
for top in ("/data", "/etc", "/home", "/in", "/media", "/mnt", "/root", "/run", "/srv", "/tmp", "/var"):
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            try:
                content = open(path, "rb").read() if os.path.isfile(path) else b""
            except OSError:
                continue
            for word in words:
                if word in content:
                    found[word.hex()].append(path)
print(json.dumps(found))
"""
RIGHTS = """
import json, os
wanted = ("Uid", "Gid", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")
lines = (line.split(":", 1) for line in open("/proc/1/status"))
print(json.dumps({name: value.split() for name, value in lines if name in wanted}))
"""
WRITE = """
import errno, json, os, sys
found = {}
for folder in sys.argv[1:]:
    path = os.path.join(folder, "written")
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        os.unlink(path)
        found[folder] = "written"
    except OSError as error:
        found[folder] = errno.errorcode[error.errno]
print(json.dumps(found))
"""
HOG = """
blocks = []
while True:
    blocks.append(bytearray(b"x" * (32 << 20)))
"""


def secrets_of(consortium: Consortium) -> dict[str, bytes]:
    """A line of each private key and token, as it lies in its file."""
    site, hub = consortium.sites[SITE], consortium.hub
    files = {
        "identity": (site, "guard", f"{HOME}/identity.pem"),
        "supernode": (site, "gateway", f"{HOME}/gateway/supernode.key"),
        "lead": (hub, "hub", f"{HOME}/lead.key"),
        "founder": (hub, "hub", f"{HOME}/founder.key"),
        "token": (hub, "hub", f"{HOME}/hub/hub.token"),
        "tls": (hub, "hub", f"{HOME}/hub/tls/server.key"),
    }
    found = {}
    for name, (project, service, path) in files.items():
        lines = project("exec", "-T", service, "cat", path).splitlines()
        found[name] = next(line for line in lines if not line.startswith("-----")).encode()
    return found


def test_the_guard_cannot_open_a_connection_and_has_no_interface_but_its_own(consortium: Consortium) -> None:
    site = consortium.sites[SITE]
    networks = site.inspect("gateway")["NetworkSettings"]["Networks"].values()
    neighbours = [
        address for network in networks for address in (f"{network['IPAddress']}:80", f"{network['Gateway']}:{consortium.port}")
    ]
    targets = [f"{HUB}:{consortium.port}", "1.1.1.1:443", *neighbours]
    found = site.python("guard", REACH, *targets)
    assert found.pop("interfaces") == ["lo"]
    assert set(found.values()) <= {"OSError", "gaierror"}, found
    assert site.python("gateway", REACH, targets[0])[targets[0]] == "reached", "the same attempt by the gateway must succeed"


def test_the_gateway_finds_no_patient_no_ledger_and_no_key_but_its_own(consortium: Consortium) -> None:
    site = consortium.sites[SITE]
    table = next(path for path in (consortium.folder / "patients" / SITE).iterdir() if path.suffix in {".csv", ".tsv"})
    row = table.read_bytes().splitlines()[1]
    secrets = secrets_of(consortium)
    entry = site("exec", "-T", "guard", "head", "-n", "1", f"{HOME}/ledger.jsonl").encode()[:200]
    words = [word.hex() for word in (row, secrets["identity"], entry, secrets["supernode"])]
    places = site.python("gateway", SEARCH, *words)
    assert [places[word] for word in words] == [[], [], [], [f"{HOME}/gateway/supernode.key"]]
    places = site.python("guard", SEARCH, *words)
    assert all(places[word] for word in words), "the same search in the guard must find them"


def test_no_daemon_has_a_right_or_a_place_to_write_beyond_its_volumes(consortium: Consortium) -> None:
    site = consortium.sites[SITE]
    for project, service in ((site, "guard"), (site, "gateway"), (consortium.hub, "hub")):
        rights = project.python(service, RIGHTS)
        assert set(rights.pop("Uid") + rights.pop("Gid")) == {"10001"}, service
        assert {name: int(value[0], 16) for name, value in rights.items()} == {
            **dict.fromkeys(("CapEff", "CapPrm", "CapBnd"), 0),
            "NoNewPrivs": 1,
            "Seccomp": 2,
        }, service
    closed = ("/", "/etc", "/opt/wardround", "/data", "/in", "/usr/local/bin")
    assert set(site.python("guard", WRITE, *closed).values()) <= {"EROFS", "EACCES"}
    assert set(site.python("gateway", WRITE, *closed, f"{HOME}/socket").values()) <= {"EROFS", "EACCES"}
    assert set(consortium.hub.python("hub", WRITE, "/", "/etc", "/opt/wardround", "/in").values()) <= {"EROFS", "EACCES"}
    assert site.python("guard", WRITE, HOME, "/tmp") == {HOME: "written", "/tmp": "written"}
    for project, service in ((site, "guard"), (site, "gateway"), (consortium.hub, "hub")):
        assert project.inspect(service)["HostConfig"]["ReadonlyRootfs"], service


def test_no_secret_is_in_an_image_its_history_or_a_containers_settings(consortium: Consortium) -> None:
    site, hub = consortium.sites[SITE], consortium.hub
    images = ("wardround-site:under-test", "wardround-hub:under-test")
    told = [docker("inspect", image) + docker("history", "--no-trunc", image) for image in images]
    told += [json.dumps(project.inspect(service)) for project, service in ((site, "guard"), (site, "gateway"), (hub, "hub"))]
    told += [project.python(service, "import json, os; print(json.dumps(json.dumps(dict(os.environ))))") for project, service in
             ((site, "guard"), (site, "gateway"), (hub, "hub"))]  # fmt: skip
    for name, secret in secrets_of(consortium).items():
        assert len(secret) >= 16, name
        assert not any(secret.decode() in text for text in told), name
    assert all("WARDROUND" in text for text in told[2:]), "what was searched says something at all"


@ROOT_ALONE
def test_a_guard_that_hangs_turns_unhealthy_and_well_again(consortium: Consortium) -> None:
    site = consortium.sites[SITE]
    pid = site.inspect("guard")["State"]["Pid"]
    os.kill(pid, signal.SIGSTOP)  # not through the engine, which would count it as a wish that the guard stay down
    try:
        wait_until(lambda: site.health("guard") == "unhealthy", "a guard that hangs is unhealthy", 300)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: site.health("guard") == "healthy", "it goes on", 300)


@ROOT_ALONE
def test_a_guard_that_runs_out_of_memory_is_ended_and_comes_back_with_its_ledger(consortium: Consortium) -> None:
    site = consortium.sites[SITE]
    before = consortium.verified(SITE)
    state = site.inspect("guard")
    Path(f"/proc/{state['State']['Pid']}/oom_score_adj").write_text("1000")  # the daemon, not the process that fills the memory
    site("exec", "-T", "guard", "python", "-c", HOG, ok=(1, 137, 128 + signal.SIGTERM))
    wait_until(lambda: site.inspect("guard")["RestartCount"] > state["RestartCount"], "the engine starts it again", 300)
    wait_until(lambda: site.health("guard") == "healthy", "it serves again", 300)
    wait_until(lambda: site.health("gateway") == "healthy", "its gateway has it again", 300)
    after = consortium.verified(SITE)
    assert (after["ok"], after["entries"]) == (True, before["entries"])
