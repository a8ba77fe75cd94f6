"""The sentences of the report that are the same for every consortium: what epsilon promises, what it does not, how to check."""

import math
from decimal import Decimal
from typing import Final

# Each sentence stands for a property that the code has and a test holds; change neither alone.
UNIT: Final = (
    "The unit is the patient: all visits, scans and records of one person count as one. Two situations are compared that "
    "differ in one patient only: in one the patient's records were used, in the other that patient was never there."
)
BOUND: Final = (
    "Whatever anybody outside a hospital may see, compute or infer from what the hospital released is nearly as likely in the "
    "one situation as in the other. How nearly is the number epsilon: at most e^epsilon times as likely, except with a "
    "probability of at most delta, which stands beside each figure."
)
CHARGED: Final = (
    "Epsilon as charged is what a hospital's budget is charged with. It adds up over all runs in the hospital's ledger and is "
    "never given back. In mode local it holds against everybody: the coordinator, all other hospitals together, whoever "
    "obtains the models, and also if the encryption of single updates were broken, because the noise is added inside the "
    "hospital. In mode distributed it holds for the sums that are opened, as long as the secure sum holds and no more "
    "hospitals collude than the roster states."
)
EXPOSED: Final = (
    "Epsilon if exposed is what would hold if every update of the hospital were read in the clear. In mode local it equals "
    "the charge; in mode distributed it is larger, and a hospital's policy limits it separately."
)
LEGAL: Final = (
    "In the language of data protection: the figures bound how much what was released can be used to single out one patient, "
    "to link records to one, or to infer something about one from that patient's own records. They do not decide whether the "
    "releases are anonymous data in the sense of the law; they are the measurement on which such a decision can rest."
)

LIMITS: Final = (
    "Epsilon bounds what a patient's own records add. What the models teach about multiple sclerosis in general is meant to "
    "be learnt, and applies to a patient whether or not that patient took part.",
    "The figures are about one person's records. A family whose members are all patients here is protected less: for two "
    "persons epsilon is twice as large.",
    "A patient whose records lie in two hospitals under different pseudonyms is counted in both: the figures of both add up.",
    "A ledger says what the hospital's software charged. That the software adds the noise that it charges is a matter of its "
    "code, its tests and the measurements in this report: not of the ledger's signature.",
    "A ledger proves nothing about a machine that was set back as a whole, ledger and head file together. Copies handed out "
    "earlier reveal that: keep the ledger files that belong to this report.",
    "A hospital's steward, staff and anybody with access to its machines can read its data. Nothing here is about them.",
    "A coordinator's journal is signed by nobody. What it says about absences and their reasons is its word.",
    "Nothing here says that a model is right, fair or useful for treatment.",
)

NOT_PRIVATE: Final = (
    "NOT PRIVATE: something in these books left a hospital without noise. No epsilon bounds what it says about the patients "
    "in it. The runs and hospitals that this concerns are marked below."
)

CANARY: Final = (
    "Canaries are invented patients that a hospital mixed into its own training, each in or out by the toss of a coin. How "
    "well the coins can be guessed from what was released says how large epsilon is at least. The estimate is close to the "
    "truth where noise is Gaussian, but unproven; the lower bound holds with the confidence stated and is usually far below "
    "the truth. A lower bound above the claim refutes the claim. Nothing here can confirm one: an audit finds mistakes, it "
    "does not prove that there are none."
)
MEMBERSHIP: Final = (
    "A membership test asks of the finished model alone whether it behaves differently on patients who were in its training. "
    "It sees less than the coordinator saw during training, so a good result is expected also where protection is weaker than "
    "claimed."
)


def odds_rows(epsilon: float) -> list[tuple[str, str, str]]:
    """What somebody can believe afterwards who believed before, with so much certainty, that a patient was among the data.

    Posterior odds are at most e^epsilon times prior odds (delta left aside); epsilon is finite.
    """
    rows = []
    for before in (0.01, 0.1, 0.5, 0.9):
        odds = math.exp(min(epsilon, 500.0)) * before / (1.0 - before)
        low = before / (before + (1.0 - before) * math.exp(min(epsilon, 500.0)))
        rows.append((f"{before:.0%}", _percent(low), _percent(odds / (1.0 + odds))))
    return rows


def _percent(share: float) -> str:
    if share >= 0.9995:
        return "more than 99.9 %"
    if share < 0.0005:
        return "less than 0.1 %"
    return f"{100 * share:.1f} %"


def factor_text(epsilon: float) -> str:
    """e^epsilon for people: 11.5, then whole numbers, or a power of ten where it is beyond meaning."""
    factor = math.exp(min(epsilon, 500.0))
    if factor < 1e6:
        return f"{factor:.3g}" if factor < 100.0 else f"{factor:,.0f}"
    return f"10^{epsilon / math.log(10):.0f}"


def delta_text(delta: float) -> str:
    """Three digits, never as a power of ten: 0.00001."""
    return format(Decimal(f"{delta:.3g}"), "f")


def bytes_text(size: int) -> str:
    """A size for people, decimal units."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}" if size < 999.5 * scale else f"{size / scale:,.0f} {unit}"
    return f"{size} B"
