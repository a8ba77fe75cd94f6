"""An invite is trusted as far as the founders' fingerprint goes, and no byte of it lies outside that."""

import json
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consortium.documents import Signed
from consortium.errors import ConsortiumError, DocumentError, SignatureError
from consortium.identity import SigningKey, parse_fingerprint
from consortium.invite import Invite, InviteFile, certificate_fingerprint, make_invite_file
from consortium.leave import LeaveNotice, sign_leave, verify_leave
from consortium.roster import Member, Roster, changes, least_sites, sign_roster

Keys = Callable[[str], SigningKey]
NOW = "2026-02-01T08:30:00Z"


@pytest.fixture(scope="module")
def file(make_vectors: ModuleType) -> InviteFile:
    found: InviteFile = make_vectors.example_invite()
    return found


def test_the_founders_fingerprint_vouches_for_hub_and_authority(file: InviteFile, pinned: str, make_vectors: ModuleType) -> None:
    invite, roster = InviteFile.decode(file.encode()).verify(pinned)
    assert (invite.hub, invite.ca, roster.version) == ("hub.example.org:443", make_vectors.example_authority(), 1)
    assert "BEGIN CERTIFICATE" in invite.ca_pem


def test_what_people_read_in_the_file_is_what_was_signed(file: InviteFile, pinned: str) -> None:
    shown = json.loads(file.encode())
    assert (shown["hub"], shown["founders"]) == ("hub.example.org:443", pinned)
    assert shown["hub_certificate_authority"] == certificate_fingerprint(file.signed.document(Invite).ca)


def test_line_ends_of_another_system_are_no_change(file: InviteFile, pinned: str) -> None:
    windows = file.encode().replace(b"\n", b"\r\n")
    assert InviteFile.decode(windows).verify(pinned) == file.verify(pinned)
    assert InviteFile.decode(file.encode().rstrip(b"\n")).verify(pinned) == file.verify(pinned)


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 10**6), change=st.integers(1, 255))
@example(at=0, change=1)
@example(at=2, change=ord(" ") ^ ord("\t"))
def test_an_invite_with_any_byte_altered_is_refused(make_vectors: ModuleType, pinned: str, at: int, change: int) -> None:
    data = bytearray(make_vectors.example_invite().encode().rstrip(b"\n"))
    data[at % len(data)] ^= change
    with pytest.raises(ConsortiumError):
        InviteFile.decode(bytes(data)).verify(pinned)


@pytest.mark.parametrize("field", ["hub", "hub_certificate_authority", "founders", "roster_version", "consortium", "made"])
def test_a_line_for_people_that_says_something_else_is_refused(file: InviteFile, field: str) -> None:
    shown = json.loads(file.encode())
    shown[field] = "other.example.org:443" if field != "roster_version" else 9
    with pytest.raises(ConsortiumError, match="altered"):
        InviteFile.decode(json.dumps(shown, indent=1).encode())


def test_another_fingerprint_than_the_told_one_is_named(file: InviteFile, pinned: str) -> None:
    told = "0" + pinned[1:] if pinned[0] != "0" else "1" + pinned[1:]
    with pytest.raises(SignatureError, match=f"names founders {pinned}, you were told {told}"):
        file.verify(told)


def remade(file: InviteFile, key: SigningKey, signer: str, **changed: object) -> InviteFile:
    invite = replace(file.signed.document(Invite), **changed)  # type: ignore[arg-type]
    return make_invite_file(invite, file.signed_roster, signer, key)


def test_only_a_lead_on_the_roster_says_where_the_hub_is(file: InviteFile, key: Keys, pinned: str) -> None:
    for signer in ("aalborg", "mallory", "anna"):  # a site, a stranger, a founder
        with pytest.raises(SignatureError, match="may not sign"):
            remade(file, key(signer), signer).verify(pinned)
    with pytest.raises(SignatureError, match="does not match"):
        remade(file, key("mallory"), "lead-1", hub="evil.example.org:443").verify(pinned)
    with pytest.raises(SignatureError, match="no lead signed"):
        InviteFile(replace(file.signed, signatures=()), file.signed_roster).verify(pinned)


def test_an_invite_beside_another_roster_than_its_own_is_refused(file: InviteFile, roster: Roster, key: Keys, pinned: str) -> None:
    """A removed lead keeps old invites and rosters: they do not mix with new ones."""
    newer = replace(roster, version=2)
    signed = sign_roster(sign_roster(newer, "anna", key("anna")), "clara", key("clara"))
    with pytest.raises(SignatureError, match="another roster"):
        InviteFile(file.signed, signed).verify(pinned)
    with pytest.raises(SignatureError, match="signed an invite of Other"):
        remade(file, key("lead-1"), "lead-1", consortium="Other").verify(pinned)


def test_a_roster_with_too_few_founders_makes_no_invite(file: InviteFile, roster: Roster, key: Keys, pinned: str) -> None:
    with pytest.raises(SignatureError, match="needs 2"):
        InviteFile(file.signed, sign_roster(roster, "anna", key("anna"))).verify(pinned)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"hub": "https://hub"}, "host:port"),
        ({"hub": "hub:0"}, "host:port"),
        ({"hub": "hub:70000"}, "host:port"),
        ({"hub": "hub:1\nsite: x"}, "host:port"),
        ({"ca": b"PEM"}, "no certificate"),
        ({"roster_digest": b"short"}, "32 bytes"),
        ({"made": "today"}, "2026-01-31T12:00:00Z"),
    ],
)
def test_an_invite_that_cannot_be_used_is_not_made(file: InviteFile, changed: dict[str, object], says: str) -> None:
    with pytest.raises(DocumentError, match=says):
        replace(file.signed.document(Invite), **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"hub": "h:1", "ca": "x", "founders": "f", "roster": "00"}', b"\xff", b"[" * 5000]
)
def test_what_is_no_invite_is_refused(data: bytes) -> None:
    with pytest.raises(ConsortiumError):
        InviteFile.decode(data)


@pytest.mark.parametrize(
    "typed",
    [
        "1F0C-22AB-0000-1111-2222-3333-4444-5555",
        "1f0c22ab000011112222333344445555",
        " 1f0c 22ab 0000 1111 2222 3333 4444 5555\n",
        "1f0c–22ab—0000−1111‑2222-3333-4444-5555",
        "1f:0c:22:ab:00:00:11:11:22:22:33:33:44:44:55:55",
    ],
)
def test_a_fingerprint_may_be_typed_in_any_usual_way(typed: str) -> None:
    assert parse_fingerprint(typed) == "1f0c-22ab-0000-1111-2222-3333-4444-5555"


@pytest.mark.parametrize(
    "typed", ["", "1f0c", "1f0c-22ab-0000-1111-2222-3333-4444-555", "g" * 32, "1f0c-22ab-0000-1111-2222-3333-4444-55555"]
)
def test_what_is_no_fingerprint_is_told_so(typed: str) -> None:
    with pytest.raises(DocumentError, match="expected 32"):
        parse_fingerprint(typed)


def test_changes_of_a_roster_are_told_in_words(roster: Roster, key: Keys) -> None:
    newcomer = Member("essen", "site", key("essen").public, "line")
    others = tuple(member for member in roster.members if member.id != "bergen")
    later = replace(roster, version=2, colluders=2, members=tuple(sorted((*others, newcomer), key=lambda one: one.id)))
    said = changes(roster, later)
    assert said == ("joined: essen (site)", "removed: bergen (site)", "colluders: 1 before, 2 now")
    assert changes(roster, replace(roster, version=2)) == ()
    assert (least_sites(roster), least_sites(later)) == (3, 4)


def test_a_leave_notice_counts_only_with_the_sites_own_key(make_vectors: ModuleType, key: Keys) -> None:
    notice: LeaveNotice = make_vectors.example_leave()
    signed = Signed.decode(sign_leave(notice, key("aalborg")).encode(), "leave-notice")
    assert verify_leave(signed, "aalborg", key("aalborg").public) == notice
    with pytest.raises(SignatureError):
        verify_leave(signed, "aalborg", key("bergen").public)
    with pytest.raises(SignatureError, match="not signed by bergen"):
        verify_leave(signed, "bergen", key("aalborg").public)


@pytest.mark.parametrize(
    "changed", [{"site": "A B"}, {"reason": ""}, {"reason": "x" * 501}, {"left": "now"}, {"entries": 0}, {"ledger_head": b""}]
)
def test_a_leave_notice_that_says_too_little_is_not_made(make_vectors: ModuleType, changed: dict[str, object]) -> None:
    with pytest.raises(DocumentError):
        replace(make_vectors.example_leave(), **changed)
