"""`wardround-site personalise` and `evaluate`: a finished model and this hospital's own patients. Nothing is sent."""

import argparse
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.cli_output import Output
from client.clock import utc
from client.config import SiteConfig, load_config
from client.errors import ConfigError, SiteError
from client.files import write_first
from client.home import Home
from client.unexpected import told_without_cells
from tasks.errors import DataError
from tasks.scoring.names import meaning, words

if TYPE_CHECKING:
    from client.local_figures import Figure
    from client.local_model import LocalModel, LocalSide
    from client.personal import Candidate, Tried
    from consortium.canonical import Json

PATIENTS_LEAST = 20  # on a side from which something is learnt or decided
SHOWN_LEAST = 10  # patients; figures of fewer are not handed on
FEW = 100  # test patients, below which a program says that figures tell little
PUBLISHED = "wardround/site-figures/1"
PERSONALISE_EXAMPLE = """example:
  wardround-site personalise model/                     MODEL is a folder that `wardround-lead model export` wrote
Fits the model to this hospital's training side in three ways (recalibrated, output layer, all layers) and keeps the one that
surely predicts better on the validation half; without one, the global model stays. The test half is used once, for the last line.
A personal model holds traces of this hospital's patients: it is kept in personal/RUN, mode 0600, and must not leave.
exit status: 0 done, also if the global model stays; 1 files or tables cannot be used; 2 usage or configuration"""
EVALUATE_EXAMPLE = """examples:
  wardround-site evaluate model/                        figures on this hospital's test patients, shown here alone
  wardround-site evaluate personal/RUN/                 of the personal model
  wardround-site evaluate model/ --publish FILE         your choice: the main figure as a file that you may hand on
Every use of the test half is listed in tests.jsonl: a model that is chosen by its test figures has none left.
Figures are exact, without noise, and not in the ledger: whether to hand them on is for the steward to decide."""


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    shape = argparse.RawDescriptionHelpFormatter
    about = "fit a finished model to this hospital's patients, if that helps"
    personalise = verbs.add_parser("personalise", help=about, description=about, epilog=PERSONALISE_EXAMPLE, formatter_class=shape)
    personalise.add_argument("model", type=Path, metavar="MODEL", help="folder of an exported model")
    personalise.set_defaults(handler=told_without_cells("the fit", _personalise))
    about = "how a finished model does on this hospital's test patients"
    evaluate = verbs.add_parser("evaluate", help=about, description=about, epilog=EVALUATE_EXAMPLE, formatter_class=shape)
    evaluate.add_argument("model", type=Path, metavar="MODEL", help="folder of an exported or a personal model")
    evaluate.add_argument(
        "--publish",
        type=Path,
        metavar="FILE",
        help=f"write the main figure alone, if it is of {SHOWN_LEAST} patients or more",
    )
    evaluate.set_defaults(handler=told_without_cells("the evaluation", _evaluate))


# --- personalise ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fitted:
    """`kept`: the candidate that surely helps, with what it saved; None: the global model stays."""

    local: "LocalModel"
    results: "list[Tried]"
    kept: "tuple[Candidate, Tried] | None"


def _personalise(home: Home, args: argparse.Namespace, out: Output) -> int:
    from client.personal_files import MUST_STAY, remove_personal  # imports torch

    made = _fitted(home, args.model)
    run_id, sides = made.local.exported.run_id, made.local.sides
    folder, last = (None, {}) if made.kept is None else _keep(home, made.local, *made.kept)
    stale = folder is None and remove_personal(home, run_id)
    rows = [
        {"kind": each.kind, "spread": each.spread or "", "gain": round(each.gain, 4), "surely above": _number(each.low)}
        for each in made.results
    ]
    if out.as_json:
        offered = {"run_id": run_id, "offered": folder is not None, "folder": str(folder) if folder else None, "tried": rows}
        patients = {"training_patients": sides.training.patients, "validation_patients": sides.validation.patients}
        out.facts("personalise", {**offered, **patients, **last})
        return 0
    out.say(f"Fitted to {sides.training.patients} training patients, compared on {sides.validation.patients} validation patients.")
    out.rows("loss saved a patient", rows)  # a short title: it is no wider than the table
    if made.kept is None:
        out.say("The global model stays: no version of this hospital's own is surely better here.")
        if stale:
            out.say("An earlier personal model of this run was removed: with the patients as they are now it does not help.")
        return 0
    out.say(f"Kept: {made.kept[0].kind}, in {folder}. {MUST_STAY}")
    out.facts("on the test half, looked at for this line alone", last)
    if not last["surely_better_on_test"]:
        out.say("On test patients it is NOT surely better than the consortium's model: compare both before you use it.")
    return 0


def _fitted(home: Home, model: Path) -> _Fitted:
    from client.local_model import enough, open_model
    from client.personal import candidates, chosen, gains, tried

    config = _config(home)
    local = open_model(model.expanduser(), config, home.load_roster())
    if local.exported.personal:
        raise ConfigError(f"{model} is a personal model already: name the folder of the consortium's")
    enough(local.sides.training, PATIENTS_LEAST, "training side")
    enough(local.sides.validation, PATIENTS_LEAST, "validation half")
    found = list(candidates(local, local.people(local.sides.training)))
    results = tried(found, gains(local, found, local.people(local.sides.validation)))
    best = chosen(found, results)
    return _Fitted(local, results, None if best is None else (best, results[found.index(best)]))


def _keep(home: Home, local: "LocalModel", best: "Candidate", result: "Tried") -> tuple[Path, dict[str, object]]:
    """Folder of the personal model as it was written, and what it saves on test patients."""
    from client.local_figures import histogram
    from client.personal_files import write_personal

    validation = local.people(local.sides.validation)
    cells = histogram(local, best.parameters, validation)
    evaluation: Json = {"round": 0, "sites": 1, "histogram": cells.tolist(), "noise_std": 0.0, "figures": {}}
    about: dict[str, Json] = {
        "made": utc(),
        "gain": result.gain,
        "gain_low": result.low,
        "validation_patients": validation.side.patients,
    }
    folder = write_personal(home, local.exported, best, about=about, evaluation=evaluation)
    return folder, _last_line(home, local, best)


def _last_line(home: Home, local: "LocalModel", best: "Candidate") -> dict[str, object]:
    from client.personal import gains, interval
    from client.personal_files import note_test, tests_of

    if local.sides.test.patients < SHOWN_LEAST:
        return {"test_patients": f"fewer than {SHOWN_LEAST}", "surely_better_on_test": False}
    used = tests_of(home, local.exported.digest)
    note_test(home, local.exported, command="personalise", time=utc())
    mean, low, high = interval(gains(local, [best], local.people(local.sides.test))[:, 0])
    return {
        "test_patients": local.sides.test.patients,
        "test_gain": round(mean, 4),
        "test_gain_interval": f"{low:.4f} to {high:.4f}",
        "surely_better_on_test": low > 0.0,
        "test_half_used_before": used,
    }


# --- evaluate ---------------------------------------------------------------------------------------------------------------


def _evaluate(home: Home, args: argparse.Namespace, out: Output) -> int:
    from client.local_figures import figures, primary
    from client.local_model import open_model
    from client.personal_files import note_test, tests_of

    config = _config(home)
    publish = _new_file(args.publish) if args.publish else None  # before the test half is used
    local = open_model(args.model.expanduser(), config, home.load_roster())
    if publish and local.exported.personal:
        raise ConfigError("figures of a personal model are about a model that nobody else has: they are not handed on")
    test = local.people(local.sides.test)
    if not test.side.patients:
        raise DataError("no patient is in this site's test half: there is nothing to evaluate the model on")
    used = tests_of(home, local.exported.digest)
    note_test(home, local.exported, command="evaluate", time=utc())
    found = figures(local, local.exported.parameters, test)
    rows = [
        {"figure": name, "value": _finite(each.value), "from": _finite(each.low), "to": _finite(each.high)}
        for name, each in found.items()
    ]
    if publish:
        main = primary(local)
        _publish(publish, config, local, test, (main, found.get(main)))
    if out.as_json:
        facts = {"run_id": local.exported.run_id, "model_digest": local.exported.digest.hex(), "personal": local.exported.personal}
        out.facts("evaluate", {**facts, "test_patients": test.side.patients, "used_before": used, "figures": rows})
        return 0
    kind = "personal model" if local.exported.personal else "model"
    out.say(f"{local.exported.task.name}, {kind} of run {local.exported.run_id}, at this hospital:")
    out.rows(f"{test.side.patients} test patients, 95 % intervals", [_in_words(name, each) for name, each in found.items()])
    if test.side.patients < FEW:
        out.say(f"Fewer than {FEW} test patients: these figures tell little, look at the intervals.")
    times = f"{used} time{'' if used == 1 else 's'}"
    out.say(f"The test half was used {times} before for this model." if used else "First use of the test half for this model.")
    out.say(f"Written: {publish}; nothing was sent." if publish else "Nothing was written outside and nothing was sent.")
    return 0


def _new_file(path: Path) -> Path:
    """`path` in a folder that is there. Raises `ConfigError`."""
    found = path.expanduser()
    if found.exists():
        raise ConfigError(f"{found} exists: name a new file")
    if not found.parent.is_dir() or not os.access(found.parent, os.W_OK):
        raise ConfigError(f"--publish: nothing can be written in {found.parent}: make the folder, or name another file")
    return found


def _in_words(name: str, figure: "Figure") -> dict[str, object]:
    """A row for people."""
    ends = f"{figure.low:.3f} to {figure.high:.3f}" if figure.low < figure.high else "not known"
    return {"figure": words(name), "value": f"{figure.value:.3f}", "95 % interval": ends, "how to read it": meaning(name)}


def _finite(value: float) -> float | None:
    """For programs: four decimals, None for what is not known."""
    return round(value, 4) if math.isfinite(value) else None


def _publish(path: Path, config: SiteConfig, local: "LocalModel", test: "LocalSide", main: "tuple[str, Figure | None]") -> None:
    name, figure = main
    if test.side.patients < SHOWN_LEAST or figure is None or math.isnan(figure.low):
        raise DataError(f"the main figure is of fewer than {SHOWN_LEAST} patients, or has no interval: it is not handed on")
    document = {
        "format": PUBLISHED,
        "site": config.site,
        "run_id": local.exported.run_id,
        "model_digest": local.exported.digest.hex(),
        "date": utc()[:10],
        "patients": f"{SHOWN_LEAST * (test.side.patients // SHOWN_LEAST)} or more",
        "figure": name,
        "value": round(figure.value, 3),
        "interval": [round(figure.low, 3), round(figure.high, 3)],
        "note": "exact figures of this site's test patients, without noise and outside the ledger",
    }
    try:
        new = write_first(path, json.dumps(document, indent=1).encode("ascii") + b"\n")
    except OSError as error:
        raise SiteError(f"--publish: {path} was not written: {error.strerror}") from error
    if not new:
        raise ConfigError(f"{path} exists: name a new file")


def _config(home: Home) -> SiteConfig:
    import torch

    config = load_config(home)
    torch.set_num_threads(config.threads)
    return config


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"
