"""Finds tasks by name: those of this package and those that other installed packages offer.

A package offers a task by an entry point in the group `wardround.tasks`; nothing in the framework changes. A package is
imported only when its task is asked for, so a broken one stops nobody else. Built-in names cannot be taken over.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points

from tasks.base import Task
from tasks.errors import RegistryError, TaskError
from tasks.sums import SumsTask

GROUP = "wardround.tasks"
BUILT_IN = {
    "cis_conversion": "tasks.cis_conversion.task:TASK",
    "cdp_2y": "tasks.cdp_2y.task:TASK",
    "cdp_time": "tasks.cdp_time.task:TASK",
    "raw_pira": "tasks.raw_pira.task:TASK",
    "spms_transition": "tasks.spms_transition.task:TASK",
    "cohort_description": "tasks.cohort_description.task:TASK",
    "relapse_activity": "tasks.relapse_activity.task:TASK",
    "cognition_prom": "tasks.cognition_prom.task:TASK",
    "prom_msis29": "tasks.cognition_prom.task:MSIS29_TASK",
    "treatment_response": "tasks.treatment_response.task:TASK",
    "treatment_response_relapse": "tasks.treatment_response.task:RELAPSE",
    "lesion_seg": "tasks.lesion_seg.task:TASK",
    "new_lesions": "tasks.new_lesions.task:TASK",
    "mri_harmonisation": "tasks.mri_harmonisation.task:TASK",
    "mri_quant": "tasks.mri_quant.task:TASK",
    "disease_states": "tasks.disease_states.task:TASK",
    "eligibility_flow": "tasks.eligibility_flow.task:TASK",
}
# What importing a stranger's module can raise. KeyboardInterrupt and SystemExit stay out.
LOAD_ERRORS = (
    ImportError, AttributeError, NameError, SyntaxError, TypeError, ValueError, LookupError, OSError, RuntimeError,
    ArithmeticError, AssertionError, TaskError,
)  # fmt: skip


def available() -> dict[str, str]:
    """Name of every task and where it comes from; imports none of them."""
    found = dict.fromkeys(BUILT_IN, "wardround")
    for entry in sorted(_installed(), key=lambda entry: (entry.name, _package(entry))):
        known = found.get(entry.name)
        found[entry.name] = f"{known} and {_package(entry)}: ambiguous" if known else _package(entry)
    return found


def get_task(name: str) -> Task:
    """The task called `name`, which trains a model; `RegistryError` if it is unknown, ambiguous, broken, or only sums."""
    found = find_task(name)
    if not isinstance(found, Task):
        raise RegistryError(f"the task {name!r} sums and trains no model: it has none to build, export or predict with")
    return found


def find_task(name: str) -> Task | SumsTask:
    """The task called `name`, of either kind; `RegistryError` if it is unknown, ambiguous or its package is broken."""
    offers = [entry for entry in _installed() if entry.name == name]
    if len(offers) + (name in BUILT_IN) > 1:
        packages = ["wardround"] * (name in BUILT_IN) + sorted(_package(entry) for entry in offers)
        raise RegistryError(f"the task {name!r} is offered by {' and '.join(packages)}: uninstall or rename all but one")
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return _checked(getattr(importlib.import_module(module), attribute), name, "wardround")
    if not offers:
        raise RegistryError(f"unknown task {name!r}; available: {', '.join(available())}")
    try:
        task = offers[0].load()
    except LOAD_ERRORS as error:
        raise RegistryError(
            f"the task {name!r} of the package {_package(offers[0])} ({offers[0].value}) cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
    return _checked(task, name, _package(offers[0]))


def _installed() -> list[EntryPoint]:
    """Entry points of other packages, each once; our own distribution announces the built-in ones again."""
    unique = {(entry.name, entry.value, _package(entry)): entry for entry in entry_points(group=GROUP)}
    return [entry for entry in unique.values() if BUILT_IN.get(entry.name) != entry.value]


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unnamed package"


def _checked(task: object, name: str, package: str) -> Task | SumsTask:
    if not isinstance(task, Task | SumsTask):
        raise RegistryError(
            f"the package {package} offers {name!r}, but it has not all members of tasks.base.Task or tasks.sums.SumsTask"
        )
    if task.name != name or task.contract.task != name:
        raise RegistryError(f"the package {package} offers the task {task.name!r} under the name {name!r}: make them equal")
    return task
