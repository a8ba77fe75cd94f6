"""Documents say one thing in one form: to a person who reads them and to a program that checks them."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal

import pytest

from consortium.approval import Approval, sign_approval, verify_approval
from consortium.canonical import Json, pack
from consortium.documents import MAX_DOCUMENT, Signed, from_document, to_document
from consortium.errors import ConsortiumError, DocumentError, EncodingError, SignatureError
from consortium.identity import SigningKey
from consortium.plan import (
    MAX_DELTA,
    NOT_PRIVATE,
    HeaderField,
    Participant,
    Plan,
    PrivacyTerms,
    body_length,
    header_fields,
    sign_plan,
    verify_plan,
)
from consortium.roster import Member, Roster, founders_fingerprint, sign_roster, verify_roster
from consortium.wire import SENTENCES, Refusal, encode_refusal, encode_request

Key = Callable[[str], SigningKey]


@dataclass(frozen=True)
class Inner:
    data: bytes
    pair: tuple[str, int]


@dataclass(frozen=True)
class Outer:
    flag: bool
    kind: Literal["a", "b"]
    inner: tuple[Inner, ...]
    mixed: str | int | float


OUTER = Outer(True, "a", (Inner(b"\x0a\xff", ("x", 1)),), 0.5)
OUTER_JSON: dict[str, Json] = {"flag": True, "kind": "a", "inner": [{"data": "0aff", "pair": ["x", 1]}], "mixed": 0.5}


def test_a_document_is_its_fields_with_bytes_as_hex_and_tuples_as_lists() -> None:
    assert to_document(OUTER) == OUTER_JSON
    assert from_document(Outer, OUTER_JSON) == OUTER


def test_a_value_of_no_document_type_is_refused() -> None:
    with pytest.raises(DocumentError, match="cannot hold a set"):
        to_document({1, 2})
    with pytest.raises(DocumentError, match="cannot hold a type"):
        to_document(Outer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"flag": 1}, "outer.flag: expected bool, got int"),
        ({"flag": "true"}, "outer.flag: expected bool, got str"),
        ({"kind": "c"}, "outer.kind: 'c' is not one of a, b"),
        ({"kind": ["a"]}, "outer.kind"),
        ({"inner": {}}, "outer.inner: expected a list, got dict"),
        ({"inner": [[]]}, r"outer.inner\[0\]: expected an object, got list"),
        ({"inner": [{"data": "0aff", "pair": ["x"]}]}, r"outer.inner\[0\].pair: 1 items, expected 2"),
        ({"inner": [{"data": "0aff", "pair": ["x", True]}]}, r"outer.inner\[0\].pair\[1\]: expected int, got bool"),
        ({"inner": [{"data": "0AFF", "pair": ["x", 1]}]}, r"outer.inner\[0\].data: hex text must be lower case"),
        ({"inner": [{"data": "0a ff", "pair": ["x", 1]}]}, r"outer.inner\[0\].data: hex text must be lower case"),
        ({"inner": [{"data": "0af", "pair": ["x", 1]}]}, r"outer.inner\[0\].data: not hex text"),
        ({"inner": [{"data": 10, "pair": ["x", 1]}]}, r"outer.inner\[0\].data: expected hex text, got int"),
        ({"mixed": False}, "outer.mixed: expected one of str, int, float, got bool"),
        ({"other": 1}, "outer: unknown key 'other'; known: flag, kind, inner, mixed"),
    ],
)
def test_a_wrong_value_is_refused_by_its_place(change: dict[str, Json], words: str) -> None:
    with pytest.raises(DocumentError, match=words):
        from_document(Outer, {**OUTER_JSON, **change})


def test_every_missing_key_is_named() -> None:
    for name in OUTER_JSON:
        with pytest.raises(DocumentError, match=f"key '{name}' is missing"):
            from_document(Outer, {key: value for key, value in OUTER_JSON.items() if key != name})


def test_documents_of_another_kind_are_not_mixed_up(plan: Plan, roster: Roster, pinned: str, key: Key) -> None:
    as_other = Signed("other", sign_plan(plan, key(plan.lead)).body, ()).sign(plan.lead, key(plan.lead))
    with pytest.raises(DocumentError, match="signed other stands where a signed plan"):
        verify_plan(as_other, roster)
    with pytest.raises(DocumentError, match="signed other stands where a signed roster"):
        verify_roster(as_other, pinned)
    with pytest.raises(DocumentError, match="signed other stands where a signed approval"):
        verify_approval(as_other, "aalborg", key("aalborg").public)


def test_the_kind_is_part_of_the_digest() -> None:
    assert Signed("plan", b"{}", ()).digest != Signed("roster", b"{}", ()).digest


def test_a_signature_is_not_part_of_the_digest(signed_plan: Signed, plan: Plan) -> None:
    assert signed_plan.digest == plan.digest == replace(signed_plan, signatures=()).digest


def test_signing_again_replaces_the_signature(signed_plan: Signed, plan: Plan, key: Key) -> None:
    assert signed_plan.sign(plan.lead, key(plan.lead)) == signed_plan
    assert len(signed_plan.sign(plan.lead, key("stranger")).signatures) == 1


@pytest.mark.parametrize("letter", ["\n", "\r", "\x1b", "\x00", "\u202e", "\u2066", "\u200b", "\u2028", "\ud800"])
def test_text_that_does_not_print_is_never_signed(plan: Plan, key: Key, letter: str) -> None:
    with pytest.raises(DocumentError, match="does not print"):
        sign_plan(replace(plan, code_version=f"1{letter}"), key(plan.lead))
    with pytest.raises(DocumentError, match="does not print"):
        _ = replace(plan, task=replace(plan.task, columns=("age", letter))).digest


def test_a_document_above_the_size_limit_is_refused_unread() -> None:
    with pytest.raises(EncodingError, match=f"limit is {MAX_DOCUMENT}"):
        Signed.decode(bytes(MAX_DOCUMENT + 1), "plan")


def test_a_field_above_four_gigabytes_is_refused() -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return 2**32

    with pytest.raises(EncodingError, match="limit is 4294967295"):
        pack(Long())


# the roster


def test_a_roster_is_accepted_with_the_pinned_founders_quorum(signed_roster: Signed, roster: Roster, pinned: str) -> None:
    assert verify_roster(signed_roster, pinned) == roster


def test_any_two_of_the_three_founders_are_enough(roster: Roster, pinned: str, key: Key) -> None:
    for first, second in (("anna", "bruno"), ("bruno", "clara"), ("clara", "anna")):
        assert verify_roster(sign_roster(sign_roster(roster, first, key(first)), second, key(second)), pinned) == roster


def test_one_founder_alone_is_too_few(roster: Roster, pinned: str, key: Key) -> None:
    with pytest.raises(SignatureError, match="has 1 founders' signatures, needs 2"):
        verify_roster(sign_roster(roster, "anna", key("anna")), pinned)


def test_one_founder_cannot_sign_under_two_names(roster: Roster, pinned: str, key: Key) -> None:
    with pytest.raises(SignatureError, match="does not match"):
        verify_roster(sign_roster(sign_roster(roster, "anna", key("anna")), "bruno", key("anna")), pinned)


def test_another_pin_names_both_fingerprints(signed_roster: Signed, pinned: str) -> None:
    other = "-".join(["0000"] * 8)
    with pytest.raises(SignatureError, match=f"{pinned}.*{other}"):
        verify_roster(signed_roster, other)


def test_the_pin_covers_names_keys_order_and_quorum(roster: Roster, pinned: str) -> None:
    one, two, three = roster.founders
    others = [
        founders_fingerprint((two, one, three), 2),
        founders_fingerprint((one, two), 2),
        founders_fingerprint((one, two, three), 1),
        founders_fingerprint((replace(one, name="dora"), two, three), 2),
        founders_fingerprint((replace(one, key=bytes(32)), two, three), 2),
    ]
    assert len({pinned, *others}) == 6


def test_members_are_found_by_id_and_strangers_are_not(roster: Roster) -> None:
    assert [member.id for member in roster.sites] == ["aalborg", "bergen", "cadiz", "dublin"]
    assert [member.id for member in roster.leads] == ["lead-1"]
    assert roster.member("cadiz").role == "site"
    with pytest.raises(DocumentError, match="'nobody' is not on the roster"):
        roster.member("nobody")


def test_a_roster_holds_at_most_thirty_sites(roster: Roster, key: Key) -> None:
    members = tuple(Member(f"s{at:02}", "site", key(f"s{at}").public, f"key {at}") for at in range(31))
    assert len(replace(roster, members=members[:30]).sites) == 30
    with pytest.raises(DocumentError, match="31 sites, limit is 30"):
        replace(roster, members=members)


# the plan


def test_a_plan_is_accepted_with_its_leads_signature(signed_plan: Signed, plan: Plan, roster: Roster) -> None:
    assert verify_plan(signed_plan, roster) == plan


def test_weights_are_the_declared_shares_and_add_up_to_one(plan: Plan) -> None:
    assert [plan.weight(site) for site in plan.sites] == [0.1, 0.2, 0.3, 0.4]  # 50, 100, 150, 200 of 500
    with pytest.raises(DocumentError, match="'nobody' is not a participant"):
        plan.weight("nobody")


def test_sizes_count_buffers_then_parameters(plan: Plan) -> None:
    assert (plan.n_buffers, plan.n_parameters, plan.model_size) == (6, 4, 10)
    assert replace(plan.model.parameters[0], shape=()).size == 1  # a scalar


def test_the_header_is_a_function_of_round_and_purpose_alone(plan: Plan) -> None:
    histogram = HeaderField("histogram", 32)
    assert header_fields(plan, 1, "describe") == (HeaderField("statistics", 7),)
    assert header_fields(plan, 81, "evaluate") == (histogram,)
    assert [at for at in range(1, 31) if header_fields(plan, at, "train")] == [10, 20, 30]
    assert header_fields(plan, 10, "train") == (histogram,)
    with pytest.raises(DocumentError, match="'predict' is not one of describe, train, evaluate"):
        header_fields(plan, 1, "predict")


def test_only_training_has_a_body(plan: Plan) -> None:
    assert [body_length(plan, purpose) for purpose in ("describe", "train", "evaluate")] == [0, 4, 0]


@pytest.mark.parametrize("name", [field.name for field in fields(PrivacyTerms) if field.type is float])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_no_number_of_the_privacy_terms_is_infinite(plan: Plan, name: str, value: float) -> None:
    changed = {**vars(plan.privacy), name: value}
    with pytest.raises(DocumentError, match=f"privacy.{name} is not finite"):
        replace(plan, privacy=PrivacyTerms(**changed))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_clip_and_rate_are_finite(plan: Plan, value: float) -> None:
    with pytest.raises(DocumentError, match="not a power of two"):
        replace(plan, coordinate_clip=value)
    with pytest.raises(DocumentError, match="local_rate"):
        replace(plan, schedule=replace(plan.schedule, local_rate=value))


def test_a_plan_without_privacy_says_so_in_every_number(plan: Plan) -> None:
    terms = replace(plan.privacy, mode="none", train_noise=0.0, describe_noise=0.0, evaluate_noise=0.0)
    with pytest.raises(DocumentError, match=f"write epsilon as {NOT_PRIVATE}"):
        replace(plan, privacy=terms)
    open_plan = replace(plan, privacy=replace(terms, epsilon_exposed=NOT_PRIVATE, epsilon_model=NOT_PRIVATE))
    assert (plan.private, open_plan.private) == (True, False)


def test_a_plan_needs_three_to_thirty_sites(plan: Plan) -> None:
    def with_sites(count: int) -> Plan:
        return replace(plan, participants=tuple(Participant(f"s{at:02}", at, 10) for at in range(count)))

    assert [len(with_sites(count).sites) for count in (3, 30)] == [3, 30]
    for count in (0, 2, 31):
        with pytest.raises(DocumentError, match=f"{count} participants, must be 3 to 30"):
            with_sites(count)


@pytest.mark.parametrize(("minimum", "colluders", "least"), [(5, 1, 5), (3, 3, 5)])
def test_a_plan_cannot_undercut_the_rosters_cohort(
    plan: Plan, roster: Roster, key: Key, minimum: int, colluders: int, least: int
) -> None:
    careful = replace(roster, minimum_cohort=minimum, colluders=colluders)
    signed = sign_plan(replace(plan, roster_digest=careful.digest), key(plan.lead))
    with pytest.raises(DocumentError, match=f"4 participants, the roster asks for {least}"):
        verify_plan(signed, careful)


def test_huge_dimensions_are_refused_before_they_are_multiplied(plan: Plan) -> None:
    shape = (10**4000,) * 8
    with pytest.raises(DocumentError, match="dimension outside"):
        replace(plan, model=replace(plan.model, parameters=(replace(plan.model.parameters[0], shape=shape),)))


def test_delta_may_be_as_large_as_its_limit(plan: Plan) -> None:
    assert replace(plan, privacy=replace(plan.privacy, delta=MAX_DELTA)).privacy.delta == MAX_DELTA


# the approval


def approval(plan: Plan) -> Approval:
    return Approval(plan.digest, "aalborg", "approve-until", "2026-06-30T00:00:00Z", "", "2026-02-01T08:30:00Z")


def test_an_approval_ends_by_itself(plan: Plan) -> None:
    given = approval(plan)
    times = ["2026-02-01T08:30:00Z", "2026-06-29T23:59:59Z", "2026-06-30T00:00:00Z", "2026-06-30T00:00:01Z", "2027-01-01T00:00:00Z"]
    assert [given.allows(now) for now in times] == [True, True, True, False, False]


def test_an_approval_without_end_allows_and_a_refusal_never_does(plan: Plan) -> None:
    now = "2099-12-31T23:59:59Z"
    assert replace(approval(plan), decision="approve", until="").allows(now)
    assert not replace(approval(plan), decision="refuse", until="", reason="ethics").allows(now)


@pytest.mark.parametrize("now", ["", "2026-02-01", "2026-02-01T08:30:00+00:00", "2026-02-01 08:30:00Z", "0"])
def test_a_time_in_another_form_allows_nothing(plan: Plan, now: str) -> None:
    with pytest.raises(DocumentError, match="does not look like"):
        approval(plan).allows(now)


def test_a_refusal_states_its_reason(plan: Plan) -> None:
    with pytest.raises(DocumentError, match="states its reason"):
        replace(approval(plan), decision="refuse", until="")


def test_an_approval_binds_site_and_key(plan: Plan, key: Key) -> None:
    signed = sign_approval(approval(plan), key("aalborg"))
    assert verify_approval(signed, "aalborg", key("aalborg").public) == approval(plan)
    with pytest.raises(SignatureError, match="not signed by bergen"):
        verify_approval(signed, "bergen", key("aalborg").public)
    with pytest.raises(SignatureError, match="does not match"):
        verify_approval(signed, "aalborg", key("bergen").public)


# what leaves a site


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal("FINE", (), "0" * 16),
        Refusal("ROUND", ("/data/patients.csv",), "0" * 16),
        Refusal("ROUND", ("aalborg", "Patient MS-00042"), "0" * 16),
        Refusal("ROUND", (), "patient MS-00042"),
        Refusal("ROUND", (), ""),
        Refusal("ROUND", (), "0" * 15 + "\n"),
    ],
)
def test_a_refusal_with_free_text_cannot_be_sent(refusal: Refusal) -> None:
    with pytest.raises(EncodingError) as caught:
        encode_refusal(refusal)
    assert "MS-00042" not in str(caught.value)
    assert "patients.csv" not in str(caught.value)


def test_every_sentence_is_fixed_ascii_and_ends() -> None:
    assert all(sentence.isascii() and sentence.endswith(".") and "{" not in sentence for sentence in SENTENCES.values())
    assert len(set(SENTENCES.values())) == len(SENTENCES)


def test_a_request_names_a_whole_digest() -> None:
    with pytest.raises(EncodingError, match="expected 32"):
        encode_request(bytes(31), b"")


def test_all_errors_of_the_package_share_one_base() -> None:
    assert {DocumentError, EncodingError, SignatureError} <= set(ConsortiumError.__subclasses__())
