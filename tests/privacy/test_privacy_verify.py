"""The auditor's report: honest ledgers pass, and a site that lies about its epsilon, its rounds or its history is named."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from consortium.canonical import encode_json
from consortium.identity import SigningKey
from consortium.plan import Plan
from privacy.check import Bracket
from privacy.entries import (
    ENTRY_LABEL,
    FIRST_PREVIOUS,
    LINE_MOST,
    Content,
    Genesis,
    PlanApproved,
    SpendDetails,
    SpendRecord,
    Withdrawn,
    make_entry,
)
from privacy.errors import LedgerError
from privacy.events import GaussianEvent, NonPrivateEvent, PoissonGaussianEvent, SharedGaussianEvent, Spend
from privacy.ledger import Ledger, head_path, read_entries
from privacy.planned import expected_details
from privacy.reading import Reader
from privacy.renyi import Bound
from privacy.terms import once_spends, round_spends
from privacy.verify import CHECKPOINTS, compare, verify_ledger

from .conftest import DELTA, HISTOGRAM, KEY, NOW, PLAN_DIGEST, SPLIT, TRAIN, details, make_ledger

STRANGER = SigningKey.from_seed(bytes(32))
GENESIS = Genesis(1, "ms-north", "aachen", KEY.public, "ms-clinic", SPLIT)
APPROVED = PlanApproved(PLAN_DIGEST, "run-1", "lead-anna", "steward", "", DELTA, 3.0)


def signed(*contents: Content, key: SigningKey = KEY) -> bytes:
    """A ledger that its owner signed, whatever it says: what a dishonest site could write."""
    previous, lines = FIRST_PREVIOUS, []
    for index, content in enumerate((GENESIS, *contents)):
        entry = make_entry(index, content, previous=previous, now=NOW, key=key)
        previous = entry.hash
        lines.append(entry.line + b"\n")
    return b"".join(lines)


def record(number: int, claimed: float, *spends: Spend, **changes: object) -> SpendRecord:
    return SpendRecord(details(number, **changes), spends or (TRAIN,), claimed)


def test_an_honest_ledger_has_no_problem_and_two_figures_that_agree(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=30)
    report = verify_ledger(path.read_bytes(), KEY.public, head_path(path).read_bytes())
    assert report.ok
    assert report.spends == (replace(HISTOGRAM, count=30), replace(TRAIN, count=30))
    (figure,) = report.figures
    assert figure.agree
    assert figure.reference == pytest.approx(figure.independent.upper, abs=1e-3)
    assert len(report.claims) == 10 <= CHECKPOINTS
    assert report.claims[-1].entry == 30
    assert all(claim.holds for claim in report.claims)


def test_a_claim_below_the_truth_is_named() -> None:
    report = verify_ledger(signed(APPROVED, record(1, 0.1)))
    assert [problem for problem in report.problems if problem.startswith("ledger entry 2: claims epsilon 0.1000")]


def test_hiding_a_release_without_noise_behind_a_number_is_named() -> None:
    report = verify_ledger(signed(APPROVED, record(1, 0.1, Spend(NonPrivateEvent(), "train"))))
    assert report.non_private_entries == (2,)
    assert any("inf" in problem for problem in report.problems)
    (figure,) = report.figures
    assert figure.agree
    assert math.isinf(figure.reference)


def test_an_epsilon_that_falls_is_named(tmp_path: Path) -> None:
    report = verify_ledger(signed(APPROVED, record(1, 3.0), record(2, 2.5), record(3, -1.0), record(4, 4.0)))
    assert [problem for problem in report.problems if "falls from 3.0000 to 2.5000" in problem]
    assert [problem for problem in report.problems if problem.startswith("ledger entry 5") and "falls from inf" in problem]


def test_accountants_that_disagree_are_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("privacy.verify.bracket", lambda *_, **__: Bracket(7.0, 7.1))
    report = verify_ledger(make_ledger(tmp_path, rounds=1).read_bytes())
    assert any("accountants disagree" in problem for problem in report.problems)


def test_a_renyi_bound_below_the_truth_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("privacy.verify.renyi_bound", lambda *_, **__: Bound(0.01, 2.0))
    report = verify_ledger(make_ledger(tmp_path, rounds=1).read_bytes())
    assert any("accountants disagree" in problem for problem in report.problems)


def test_a_stranger_s_ledger_is_refused_whole(tmp_path: Path) -> None:
    report = verify_ledger(make_ledger(tmp_path, rounds=1).read_bytes(), STRANGER.public)
    assert not report.ok
    assert (report.first_bad, len(report.problems)) == (0, 1)
    assert "another site's ledger" in report.problems[0]


def test_what_stands_before_the_first_bad_entry_is_still_reported(tmp_path: Path) -> None:
    data = make_ledger(tmp_path, rounds=4).read_bytes()
    report = verify_ledger(data.replace(b'"round":3', b'"round":9'))
    assert report.problems[0].startswith("ledger entry 3:")
    assert report.entries == 3
    assert report.figures


@pytest.mark.parametrize("data", [b"", b"torn", b"\n", b"\xff\n", b"[]\n", b'{"body":1}\n'])
def test_bytes_that_are_no_ledger_are_a_problem_and_no_crash(data: bytes) -> None:
    report = verify_ledger(data)
    assert not report.ok
    assert report.entries == 0


def test_the_head_file_shows_removed_and_replaced_entries(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=2)
    data, head = path.read_bytes(), head_path(path).read_bytes()
    shorter = b"".join(data.splitlines(keepends=True)[:-1])
    assert verify_ledger(shorter).ok  # alone it cannot show that
    assert verify_ledger(shorter, head=head).problems[0].startswith("ledger entry 2: missing")
    assert "another history" in verify_ledger(signed(APPROVED, record(1, 0.6), record(2, 0.9)), head=head).problems[0]
    assert "damaged" in verify_ledger(data, head=b"x").problems[0]


def test_a_torn_end_is_a_problem_until_a_guard_recovered_it(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=1)
    assert "torn write" in verify_ledger(path.read_bytes() + b"{").problems[0]


def test_what_an_auditor_should_read_is_remarked(tmp_path: Path) -> None:
    path = make_ledger(tmp_path)
    with Ledger.open(path, KEY, NOW) as ledger:
        ledger.spend(details(1), (TRAIN,), NOW)
        ledger.append("plan-approved", APPROVED, NOW)
        ledger.append("withdrawn", Withdrawn(PLAN_DIGEST, "run-1", "left"), NOW)
        ledger.spend(details(1, plan_digest=bytes(32), run_id="run-2", split_id="bb" * 32), (TRAIN,), NOW.replace(year=2025))
    report = verify_ledger(path.read_bytes())
    assert report.ok
    assert any("run-1 spends, but its plan has no approval" in remark for remark in report.remarks)
    assert any("clock went back" in remark for remark in report.remarks)
    assert any("different train/held-out splits" in remark for remark in report.remarks)


def test_spending_after_withdrawal_is_remarked_once_and_a_new_approval_ends_it() -> None:
    gone = Withdrawn(PLAN_DIGEST, "run-1", "left")
    data = signed(APPROVED, record(1, 0.5), gone, record(2, 0.75), record(3, 0.95))
    assert [remark for remark in verify_ledger(data).remarks if "was withdrawn" in remark] == [
        "ledger entry 4: run run-1 spends, but its plan was withdrawn"
    ]
    assert verify_ledger(signed(APPROVED, gone, APPROVED, record(1, 0.5))).remarks == ()


def test_each_delta_has_its_own_figure() -> None:
    data = signed(APPROVED, record(1, 0.5), record(2, 0.4, delta=1e-4))
    report = verify_ledger(data)
    assert [figure.delta for figure in report.figures] == [1e-5, 1e-4]
    assert not any("falls" in problem for problem in report.problems)


def test_sampled_rounds_are_recomputed_too(tmp_path: Path) -> None:
    path = make_ledger(tmp_path)
    with Ledger.open(path, KEY, NOW) as ledger:
        ledger.spend(details(1), (Spend(PoissonGaussianEvent(2.0, 0.25), "train", 40),), NOW)
        ledger.spend(details(2), (Spend(GaussianEvent(9.0), "train"),), NOW)
    report = verify_ledger(path.read_bytes())
    assert report.ok
    assert report.figures[0].independent.lower < report.figures[0].reference < report.figures[0].independent.upper


def test_copies_that_part_are_a_fork_and_older_copies_are_not(tmp_path: Path) -> None:
    one = signed(APPROVED, record(1, 0.6), record(2, 0.9))
    other = signed(APPROVED, record(1, 0.6), record(2, 0.8, Spend(GaussianEvent(30.0), "train")))
    older = b"".join(one.splitlines(keepends=True)[:2])
    assert compare([one, older, one]) == []
    (parting,) = compare([one, other])
    assert parting.startswith("ledger entry 3: ledgers 1 and 2")
    assert compare([one, b"", b"x\n"]) == []
    elsewhere = make_entry(
        0, replace(GENESIS, site="bonn", identity_key=STRANGER.public), previous=FIRST_PREVIOUS, now=NOW, key=STRANGER
    )
    assert compare([one, elsewhere.line + b"\n"]) == []


def test_the_first_bad_entry_comes_first_and_is_told(tmp_path: Path) -> None:
    report = verify_ledger(signed(APPROVED, record(1, 0.1), record(2, 0.05), record(3, 0.01)))
    assert report.first_bad == 2
    assert report.problems[0].startswith("ledger entry 2:")
    assert verify_ledger(make_ledger(tmp_path, rounds=1).read_bytes()).first_bad is None
    assert verify_ledger(b"").first_bad == 0


def test_shares_of_noise_have_two_figures_and_other_ledgers_one() -> None:
    share = Spend(SharedGaussianEvent(4.0, 4), "train")
    report = verify_ledger(signed(APPROVED, record(1, 0.4739, share)), deltas=[1e-6])
    assert not [problem for problem in report.problems if "accountants" in problem]
    assert [figure.delta for figure in report.figures] == [figure.delta for figure in report.exposed] == [1e-5, 1e-6]
    whole = verify_ledger(signed(APPROVED, record(1, 0.4739)))  # noise 8 in one piece
    alone = verify_ledger(signed(APPROVED, record(1, 1.0, Spend(GaussianEvent(4.0), "train"))))
    assert (whole.exposed, alone.exposed) == ((), ())
    assert report.figures[0].reference == pytest.approx(whole.figures[0].reference, abs=1e-6)
    assert report.exposed[0].reference == pytest.approx(alone.figures[0].reference, abs=1e-6)


@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_reading_line_by_line_finds_what_reading_at_once_finds(tmp_path: Path, rounds: int) -> None:
    data = make_ledger(tmp_path, rounds=rounds).read_bytes() + b"torn"
    reader = Reader(io.BytesIO(data))
    assert (tuple(reader), b"torn") == read_entries(data)
    assert reader.torn == 4


def test_a_signature_over_other_bytes_than_the_line_s_is_refused() -> None:
    lines = signed(APPROVED, record(1, 0.5)).splitlines()
    entry = list(Reader(io.BytesIO(b"".join(line + b"\n" for line in lines))))[2]
    other = replace(entry, signature=KEY.sign(ENTRY_LABEL, encode_json({"index": 2})))
    with pytest.raises(LedgerError, match="entry 2: not signed"):
        list(Reader(io.BytesIO(b"\n".join([*lines[:2], other.line, b""]))))


def test_a_file_without_lines_is_not_read_to_its_end() -> None:
    endless = io.BytesIO(b"a" * (10 * LINE_MOST))
    assert verify_ledger(endless).problems[0].startswith("ledger entry 0: line of more than")
    assert endless.tell() <= LINE_MOST + 2


# The plans: what a site charges is what the plan that it names asks for.

MakePlan = Callable[..., Plan]


def charge(plan: Plan, number: int, purpose: str = "train", **changes: object) -> SpendRecord:
    """What an honest site "a" charges for a round; keywords change its details or its `spends`."""
    spends = changes.pop("spends", round_spends(plan, number, purpose))
    said: dict[str, object] = {"plan_digest": plan.digest, "purpose": purpose, **expected_details(plan, "a", purpose), **changes}
    about: SpendDetails = replace(details(number), **said)  # type: ignore[arg-type]
    return SpendRecord(about, spends, 90.0 + number)  # type: ignore[arg-type]


def planned(plan: Plan, *records: SpendRecord, plans: list[Plan] | None = None, site: str = "a") -> list[str]:
    """The problems of a ledger with these spends that come from comparing it with the plans."""
    approved = PlanApproved(plan.digest, plan.run_id, plan.lead, "steward", "", plan.privacy.delta, 50.0)
    previous, lines = FIRST_PREVIOUS, []
    for index, content in enumerate((replace(GENESIS, site=site), approved, *records)):
        entry = make_entry(index, content, previous=previous, now=NOW, key=KEY)
        previous = entry.hash
        lines.append(entry.line + b"\n")
    report = verify_ledger(b"".join(lines), plans=[plan] if plans is None else plans)
    return [problem for problem in report.problems if "claims epsilon" not in problem]


@pytest.mark.parametrize("terms", [{}, {"sample_rate": 0.25}, {"mode": "none"}, {"count_noise": 5.0}])
def test_a_site_that_charged_what_its_plan_asks_for_has_no_problem(make_plan: MakePlan, terms: dict[str, object]) -> None:
    plan = make_plan(**terms)
    first = charge(plan, 2, spends=(*round_spends(plan, 2, "train"), *once_spends(plan)))
    rest = [charge(plan, 3), charge(plan, 5), charge(plan, 6, "evaluate")]
    assert planned(plan, charge(plan, 1, "describe"), first, *rest) == []


def test_the_shares_of_a_distributed_plan_are_compared_too(make_plan: MakePlan) -> None:
    plan = make_plan(mode="distributed", honest=2)
    assert planned(plan, charge(plan, 1)) == []
    (problem,) = planned(plan, charge(plan, 1, spends=(Spend(GaussianEvent(8.0), "train"),)))
    assert "Gaussian share, noise 8, at least 2 in a sum" in problem


def test_a_site_that_charged_less_than_its_plan_says_is_found(make_plan: MakePlan) -> None:
    plan = make_plan()
    more_noise = charge(plan, 2, spends=(Spend(GaussianEvent(80.0), "train"),))
    (problem,) = planned(plan, charge(plan, 1), more_noise, charge(plan, 3))
    assert problem.startswith("ledger entry 3: round 2 of run run-1 charges Gaussian, noise 80 (train)")
    assert problem.endswith("its plan asks for Gaussian, noise 8 (train)")
    without_histogram = charge(plan, 5, spends=(TRAIN,))  # every fifth round carries one
    assert ["noise 6 (held-out)" in problem for problem in planned(plan, without_histogram)] == [True]
    hardly = charge(plan, 1, spends=(Spend(GaussianEvent(8.0 + 1e-9), "train"),))
    assert len(planned(plan, hardly)) == 1


def test_what_is_released_once_is_charged_with_the_first_training_round(make_plan: MakePlan) -> None:
    plan = make_plan(count_noise=5.0)
    drawn = (*round_spends(plan, 1, "train"), *once_spends(plan))
    assert planned(plan, charge(plan, 1, spends=drawn), charge(plan, 2), charge(plan, 3, spends=drawn)) == []
    assert [problem[:15] for problem in planned(plan, charge(plan, 1), charge(plan, 2, spends=drawn))] == ["ledger entry 2:"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clip": 0.125}, "clip is 0.125"),
        ({"grid_bits": 12}, "grid_bits is 12"),
        ({"normaliser": 4000.0}, "normaliser is 4000.0"),
        ({"delta": 1e-4}, "delta is 0.0001"),
        ({"run_id": "run-2"}, "run_id is 'run-2'"),
        ({"code_version": "0.0.1"}, "code_version is '0.0.1'"),
    ],
)
def test_terms_that_are_not_the_plan_s_are_found(make_plan: MakePlan, change: dict[str, object], words: str) -> None:
    (problem,) = planned(make_plan(), charge(make_plan(), 1, **change))
    assert problem.startswith(f"ledger entry 2: {words}")


def test_a_plan_that_the_ledger_names_and_nobody_gave_is_a_problem_once(make_plan: MakePlan) -> None:
    plan, other = make_plan(), make_plan(run_id="run-9")
    (problem,) = planned(plan, charge(plan, 1), charge(plan, 2), plans=[other])
    assert "add its plan.signed to --plan" in problem
    (problem,) = planned(plan, charge(plan, 1), plans=[make_plan(train_noise=4.0)])
    assert "charged by other terms" in problem
    assert planned(plan, charge(plan, 1), plans=[plan, other]) == []


def test_rounds_and_sites_that_a_plan_does_not_know_are_found(make_plan: MakePlan) -> None:
    plan = make_plan({"max_train": 20, "rounds": 2})
    late = charge(plan, 31)
    assert any("ends with round 30" in problem for problem in planned(plan, late))
    many = [charge(plan, number) for number in range(1, 23)]
    assert [problem for problem in planned(plan, *many) if "more rounds to train than the 20" in problem] == [
        "ledger entry 22: run run-1 has more rounds to train than the 20 that its plan allows"
    ]
    assert any("has no site zz" in problem for problem in planned(plan, charge(plan, 1), site="zz"))


def test_an_approval_at_another_delta_than_the_plan_s_is_found(make_plan: MakePlan) -> None:
    plan = make_plan()
    wrong = PlanApproved(plan.digest, plan.run_id, plan.lead, "steward", "", 1e-4, 50.0)
    report = verify_ledger(signed(wrong), plans=[plan])
    assert report.problems[0].startswith("ledger entry 1: approves run run-1 at delta 0.0001")
