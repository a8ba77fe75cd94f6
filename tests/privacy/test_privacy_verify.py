"""The auditor's report: honest ledgers pass, and a site that lies about its epsilon, its rounds or its history is named."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from consortium.identity import SigningKey
from privacy.check import Bracket
from privacy.entries import FIRST_PREVIOUS, Content, Genesis, PlanApproved, SpendRecord, Withdrawn, make_entry
from privacy.events import GaussianEvent, NonPrivateEvent, PoissonGaussianEvent, Spend
from privacy.ledger import Ledger, head_path
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


def test_a_stranger_s_ledger_is_refused_whole(tmp_path: Path) -> None:
    report = verify_ledger(make_ledger(tmp_path, rounds=1).read_bytes(), STRANGER.public)
    assert not report.ok
    assert report.entries == 0


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
