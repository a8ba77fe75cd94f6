"""Whether a run's model beats what its task's card names to beat: two runs of one task, on the same sites, patients and split.

The baseline is a run of its own, with its own plan, approval and cost. Both figures are of test patients, with their intervals; the
two are of the same patients, so taking them for independent makes "surely" a little too rare.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from consortium.plan import Plan
from server.errors import ServerError
from server.figures import newest, primary_of
from server.folder import RunFolder, open_folder, write_durably
from server.state import read_state
from tasks.scoring.names import Name, words

FILE = "baseline.json"
FORMAT = "wardround/baseline/1"


@dataclass(frozen=True)
class Against:
    """The primary figure of both. `gain`: above 0 where the model is better; `doubt`: half of its 95 % interval, infinite where
    one of the runs has no interval."""

    figure: str
    baseline_run: str
    model: float
    baseline: float
    gain: float
    doubt: float

    @property
    def verdict(self) -> str:
        """In words, at the head of the sentence."""
        if self.gain <= 0:
            return "THE MODEL DOES NOT BEAT ITS BASELINE"
        return "the model beats its baseline" if self.gain > self.doubt else "the model is not surely better than its baseline"

    @property
    def words(self) -> str:
        """One sentence for people."""
        span = f" ± {self.doubt:.3f}" if math.isfinite(self.doubt) else ""
        return (
            f"{self.verdict}: {words(self.figure)} {self.model:.3f} against {self.baseline:.3f} (run {self.baseline_run}), "
            f"better by {self.gain:+.3f}{span}"
        )


def against(run: Path, baseline: Path) -> Against:
    """The comparison of two finished runs. Raises `ServerError` where they cannot be compared."""
    folder, other = open_folder(run), open_folder(baseline)
    plan, base = folder.plan(), other.plan()
    _check_alike(plan, base, same_split=folder.roster().split_salt == other.roster().split_salt)
    primary = primary_of(plan)
    found, known = newest(read_state(run)), newest(read_state(baseline))
    if primary is None or primary.name not in found or primary.name not in known:
        raise ServerError("one of the two runs has no figure of test patients: is it finished, and has it patients held out?")
    sign = -1.0 if primary.lower_is_better else 1.0
    gain = sign * (found[primary.name] - known[primary.name])
    return Against(primary.name, base.run_id, found[primary.name], known[primary.name], gain, _doubt(primary.name, found, known))


def _check_alike(plan: Plan, base: Plan, *, same_split: bool) -> None:
    if (plan.task.name, plan.task.version) != (base.task.name, base.task.version):
        raise ServerError(f"run {base.run_id} is of task {base.task.name} {base.task.version}: a baseline is of the same task")
    if plan.sites != base.sites or not same_split:
        raise ServerError(f"run {base.run_id} has other sites, or another split of patients: the figures are not comparable")


def _doubt(name: str, *runs: dict[str, float]) -> float:
    halves = []
    for figures in runs:
        low, high = (figures.get(str(Name(name, part))) for part in ("low", "high"))
        halves.append(math.inf if low is None or high is None else (high - low) / 2.0)
    return math.hypot(*halves)


def write_against(run: Path, found: Against) -> Path:
    """`baseline.json` in the run folder: the page shows it from now on."""
    facts = asdict(found) | {"doubt": found.doubt if math.isfinite(found.doubt) else None}
    write_durably(RunFolder(run).path / FILE, json.dumps({"format": FORMAT, **facts}, indent=1).encode("ascii") + b"\n")
    return run / FILE


def read_against(run: Path) -> Against | None:
    """What was written; None where nothing was. Raises `ServerError` for a file that is none."""
    try:
        facts = json.loads((run / FILE).read_text("ascii"))
        doubt = math.inf if facts["doubt"] is None else float(facts["doubt"])
        model, baseline, gain = (float(facts[name]) for name in ("model", "baseline", "gain"))
        return Against(str(facts["figure"]), str(facts["baseline_run"]), model, baseline, gain, doubt)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ServerError(f"{run / FILE} is damaged: remove it, or compare the runs again") from error
