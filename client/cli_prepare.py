"""`wardround-site data prepare`: a plan's scans made ready before its first round, so that no round waits. Nothing is sent."""

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from client.cli_output import Output
from client.config import load_config
from client.errors import ConfigError
from client.home import Home
from client.plans import PlanStore
from client.unexpected import told_without_cells
from tasks.cohorts import open_cohort
from tasks.imaging.task import ImageTask
from tasks.registry import find_task
from tasks.run_options import run_options

if TYPE_CHECKING:  # nibabel is for those who prepare
    from tasks.imaging.cache import Outcome

EXAMPLES = """examples:
  wardround-site data prepare RUN                 the scans that the plan RUN (`plans list`) needs, on all processors
  wardround-site data prepare RUN --workers 2
About a second for each session of 1 mm images and processor. A round prepares what is missing by itself, but its deadline does
not wait for thousands of scans. Prepared scans lie in `prepared` below the site's own folder, readable by its account alone;
they are a copy of the images: delete the folder when no run needs it. Broken off, the command goes on where it was.
Copies of images that no patient of the plan has any more are removed.
exit status: 0 all are ready, 1 some cannot be prepared (it says why; `data validate` says which files), 2 usage or configuration"""


def add_command(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`data prepare`, below `wardround-site data`."""
    about = "prepare the scans that a plan on images needs, before its rounds"
    shape = argparse.RawDescriptionHelpFormatter
    part = kinds.add_parser("prepare", help=about, description=about, epilog=EXAMPLES, formatter_class=shape)
    part.add_argument("run", metavar="RUN", help="run id, or the first digits of the plan's digest")
    part.add_argument("--workers", type=int, metavar="N", help="scans at a time (default: the processors of this machine)")
    part.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print it as JSON")
    part.set_defaults(handler=told_without_cells("the preparation", _prepare))


def _prepare(home: Home, args: argparse.Namespace, out: Output) -> int:
    from tasks.imaging.cache import Cache, State, shown

    workers = os.cpu_count() or 1 if args.workers is None else args.workers
    if workers < 1:
        raise ConfigError(f"--workers is {workers}: at least 1")
    config = load_config(home)
    plan = PlanStore(home.plans, config.site, home.load_identity().public, home.retired_keys()).find(args.run).plan
    task = find_task(plan.task.name)
    if not isinstance(task, ImageTask):
        raise ConfigError(f"plan {plan.run_id} is for {plan.task.name}, which reads no images: there is nothing to prepare")
    scans = open_cohort(task, config.data).scans
    recipe = task.recipe(run_options(dict(plan.model.options)).model, plan.task.columns)
    cache = Cache(home.prepared, recipe)
    with shown(len(scans), Console(stderr=True)) as done:
        outcomes = cache.fill(scans, workers=workers, done=done)
    unused = cache.unused(outcomes)  # of images that changed, or of patients who are in no computation any more
    cache.remove(unused)
    out.facts(f"scans for {plan.run_id}", _facts(outcomes) | {"removed": len(unused)})
    return 1 if any(outcome.state is State.REFUSED for outcome in outcomes) else 0


def _facts(outcomes: "Sequence[Outcome]") -> dict[str, object]:
    """How many became what, and why some did not; names nobody."""
    states = Counter(outcome.state.value for outcome in outcomes)
    reasons = Counter(f"{outcome.code}: {outcome.sentence}" for outcome in outcomes if outcome.entry is None)
    return {"sessions": len(outcomes)} | dict(sorted(states.items())) | {"not prepared": dict(reasons.most_common())}
