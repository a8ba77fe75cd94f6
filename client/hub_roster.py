"""The gateway asks the hub for the roster in force and hands the bytes to the guard; it believes the hub nothing itself.

What the hub says of this site's key (listed, no longer listed, unknown) is shown in words: `wardround-site status` and the log.
"""

import hashlib
import logging
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_ssh_private_key

from client.errors import ConfigError, SiteError
from client.guard_rpc import GuardClient, GuardRpcError
from consortium.documents import MAX_DOCUMENT
from consortium.question import HEADER, NO_SUCH_VERSION, PATH, VERSION_HEADER, Question, ask

TIMEOUT_S = 20.0  # for the next byte
WHOLE_S = 60.0  # for the whole answer
LONGEST_WORDS = 300  # characters of a refusal
VERSION = re.compile(r"[0-9]{1,18}")

log = logging.getLogger("wardround.gateway")


class HubSilent(SiteError):
    """The hub cannot be asked now."""


@dataclass(frozen=True)
class Standing:
    """How this site's key stands at the hub. `words` are for people; `well`: nobody need do anything about it."""

    words: str
    well: bool


@dataclass(frozen=True)
class HubAnswer:
    """`roster`: newer signed bytes, or nothing."""

    roster: bytes
    standing: Standing


class RosterQuestions:
    """Asks one hub with one SuperNode key. `superlink`: host:port. HTTP(S)_PROXY is honoured. Raises `HubSilent`."""

    def __init__(self, superlink: str, ca_file: Path, supernode_key: Path, now: Callable[[], float] = time.time) -> None:
        self._file, self._content = supernode_key, supernode_key.read_bytes()
        try:
            private = load_ssh_private_key(self._content, None)
        except (ValueError, TypeError, UnsupportedAlgorithm, NotImplementedError) as error:  # also one with a passphrase
            raise ConfigError(f"{supernode_key} is no OpenSSH private key: restore it from your backup") from error
        self._private = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        self._key = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
        self._hub = _digest(ca_file)
        self._now = now
        context = ssl.create_default_context(cafile=str(ca_file))
        self._client = httpx.Client(verify=context, timeout=TIMEOUT_S, base_url=f"https://{superlink}")

    def close(self) -> None:
        self._client.close()

    def outdated(self) -> bool:
        """Whether another key lies in the file since: the guard puts it there when a roster lists it (`client.rotation`)."""
        try:
            return self._file.read_bytes() != self._content
        except OSError:
            return False

    def ask(self, have: int) -> HubAnswer:
        """`have`: version of the roster that the guard follows."""
        question = Question(self._key, self._hub, int(self._now()), have)
        try:
            with self._client.stream("GET", PATH, headers={HEADER: ask(question, self._private)}) as response:
                return _read(response, _bounded(response))
        except httpx.HTTPError as error:
            raise HubSilent(f"the hub cannot be asked for the roster ({type(error).__name__})") from error


def _bounded(response: httpx.Response) -> bytes:
    limit = MAX_DOCUMENT if response.status_code == httpx.codes.OK else LONGEST_WORDS
    body, end = bytearray(), time.monotonic() + WHOLE_S
    for part in response.iter_bytes():
        body += part
        if time.monotonic() > end:
            raise HubSilent(f"the hub's answer about the roster is not whole within {WHOLE_S:.0f} s: ignored")
        if len(body) > limit:
            raise HubSilent(f"the hub's answer about the roster is longer than {limit} bytes: ignored")
    return bytes(body)


def _read(response: httpx.Response, body: bytes) -> HubAnswer:
    """In words of this side's own, but for a refusal of the question itself (the clock, mostly)."""
    version = response.headers.get(VERSION_HEADER, "")
    named = version if VERSION.fullmatch(version) else "?"
    if response.status_code == httpx.codes.OK:
        return HubAnswer(body, Standing(f"newer roster, version {named}", well=True))
    if response.status_code == httpx.codes.NO_CONTENT:
        return HubAnswer(b"", Standing(f"listed on roster version {named}", well=True))
    if response.status_code == httpx.codes.GONE:
        return _badly(f"this site's key is not on roster version {named}: ask the lead")
    if response.status_code == httpx.codes.FORBIDDEN:
        return _badly("no roster of this hub lists this site's key: has the lead added the site? Send join-request.json")
    if response.status_code == httpx.codes.UNAUTHORIZED:
        said = "".join(letter if letter.isprintable() else "?" for letter in body.decode("ascii", "replace"))
        return _badly(f"the hub does not take this site's question: {said}")
    raise HubSilent(f"the hub answers status {response.status_code} to a question about the roster")


def _badly(words: str) -> HubAnswer:
    return HubAnswer(b"", Standing(words, well=False))


def _digest(ca_file: Path) -> bytes:
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(ca_file.read_text(encoding="ascii"))).digest()
    except ValueError as error:
        raise ConfigError(f"{ca_file} is no certificate: join again with the lead's invite") from error


def bring_roster(questions: RosterQuestions, guard: GuardClient) -> Standing:
    """Ask once, hand over what came, ask again where that was a newer roster.

    Raises `HubSilent`. Without a guard it only asks whether the key is listed.
    """
    answer = questions.ask(held := _held(guard))
    if not answer.roster or held == NO_SUCH_VERSION:
        return answer.standing
    try:
        state, version = guard.offer_roster(answer.roster)
    except GuardRpcError as error:
        raise HubSilent(f"the guard took no roster: {error}") from error
    if state == "refused":
        log.warning("roster=offered state=refused-by-guard in_force=%d", version)
        words = f"the guard refused the hub's roster and keeps version {version}: see its log, and ask the lead"
        return Standing(words, well=False)
    log.info("roster=%d state=%s", version, state)
    return questions.ask(version).standing


def _held(guard: GuardClient) -> int:
    try:
        version = str(guard.status().get("roster", ""))
    except (GuardRpcError, ValueError):
        return NO_SUCH_VERSION
    return int(version) if VERSION.fullmatch(version) else NO_SUCH_VERSION
