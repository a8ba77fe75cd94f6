"""A finished model as `wardround-lead model export` writes it, or a personal one that a site made of it: read, checked, applied.

`model.json` says what it is, `weights.npz` holds its tensors; nothing in them runs as code. The digest in the one is that of the
values in the other: a damaged copy is refused. Neither is signed: whether a folder is the consortium's is told by comparing the
digest with the one that the run's report shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from consortium.canonical import decode_json
from consortium.documents import from_document
from consortium.errors import ConsortiumError
from consortium.plan import NOT_PRIVATE, ModelRef, ParameterSpec, PrivacyTerms, TaskRef
from secagg.model import model_digest
from tasks.base import Task
from tasks.errors import ModelFileError
from tasks.features import Design
from tasks.imaging.task import ImageTask
from tasks.registry import get_task
from tasks.run_options import RunOptions, run_options

if TYPE_CHECKING:  # torch takes a second to import; what only reads and shows a model must not need it
    from pathlib import Path

    from torch import nn

    from consortium.canonical import Json
    from tasks.base import Values
    from tasks.features import Inputs
    from tasks.scoring.base import Scoring

FORMAT: Final = "wardround/model/1"
PERSONAL_FORMAT: Final = "wardround/personal-model/1"  # another word, so that no program takes it for one that may be passed on
WEIGHTS_FILE, MODEL_FILE, CARD_FILE = "weights.npz", "model.json", "card.md"
BINS: Final = 32  # of a score, where the run says nothing
AT_ONCE: Final = 1024  # records in one pass: only memory depends on it

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Exported:
    """`buffers` (n_buffers,) and `parameters` (n_parameters,) as plans order them; `facts`: all that `model.json` says.

    `digest`: of buffers and parameters. `personal`: made at a site of its own patients, who have left traces in it.
    """

    run_id: str
    task: TaskRef
    model: ModelRef
    privacy: PrivacyTerms
    buffers: Vector = field(repr=False)
    parameters: Vector = field(repr=False)
    digest: bytes
    personal: bool
    facts: Mapping[str, Json] = field(repr=False)

    @property
    def claimed_epsilon(self) -> float:
        """Against whoever holds the model; `NOT_PRIVATE` if nothing is claimed, as of every personal model: it was fitted without
        noise, whatever the run promised about the consortium's."""
        return NOT_PRIVATE if self.personal or self.privacy.mode == "none" else self.privacy.epsilon_model

    @property
    def options(self) -> RunOptions:
        """What the run asked beside its model, and the model's own options."""
        return run_options(dict(self.model.options))


def read_exported(folder: Path) -> Exported:
    """The model of an exported folder. Raises `ModelFileError` that names what does not fit."""
    try:
        facts = decode_json((folder / MODEL_FILE).read_bytes())
        if not isinstance(facts, dict) or facts.get("format") not in (FORMAT, PERSONAL_FORMAT):
            raise ModelFileError(f"{folder / MODEL_FILE} is not of format {FORMAT}: export the model again with this version")
        task, model = from_document(TaskRef, facts.get("task")), from_document(ModelRef, facts.get("model"))
        privacy = from_document(PrivacyTerms, facts.get("privacy"))
        with np.load(folder / WEIGHTS_FILE, allow_pickle=False) as arrays:
            tensors = {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise ModelFileError(f"cannot read {error.filename or folder}: name a folder that `model export` wrote") from error
    except (ConsortiumError, ValueError, BadZipFile) as error:
        raise ModelFileError(f"{folder} does not hold an exported model: {error}") from error
    specs = model.buffers + model.parameters
    if [(spec.name, spec.shape) for spec in specs] != [(name, tensor.shape) for name, tensor in tensors.items()]:
        raise ModelFileError(f"{folder / WEIGHTS_FILE} does not hold the tensors of {MODEL_FILE}: one of them is another model's")
    buffers, parameters = (_flat(part, tensors) for part in (model.buffers, model.parameters))
    digest = model_digest([buffers.astype("<f4").tobytes(), parameters.astype("<f4").tobytes()])
    if facts.get("model_digest") != digest.hex():
        raise ModelFileError(f"the values of {folder / WEIGHTS_FILE} are not those of {MODEL_FILE}: copy the folder again")
    personal = facts["format"] == PERSONAL_FORMAT
    return Exported(_run_id(facts), task, model, privacy, buffers, parameters, digest, personal, facts)


def _flat(specs: tuple[ParameterSpec, ...], tensors: Mapping[str, Vector]) -> Vector:
    flat = np.concatenate([np.zeros(0, np.float32), *(tensors[spec.name].ravel() for spec in specs)]).astype(np.float32)
    if not np.isfinite(flat).all():
        raise ModelFileError("the model holds values that are not finite: it is of no use to anybody")
    return flat


def _run_id(facts: Mapping[str, Json]) -> str:
    run_id = facts.get("run_id")
    if not isinstance(run_id, str) or not run_id.replace("-", "").isalnum():
        raise ModelFileError(f"{MODEL_FILE} names no run id: export the model again")
    return run_id


def named_tensors(model: ModelRef, buffers: Vector, parameters: Vector) -> dict[str, Vector]:
    """The tensors by name, in the order and shapes of `model`: what `weights.npz` holds."""
    vector, specs = np.concatenate([buffers, parameters]), model.buffers + model.parameters
    ends = np.cumsum([spec.size for spec in specs])
    return {spec.name: vector[end - spec.size : end].reshape(spec.shape) for spec, end in zip(specs, ends, strict=True)}


def task_of(exported: Exported) -> Task:
    """The installed task that the model is of. Raises `TaskError`: it is unknown here, of another version, or of images."""
    task = get_task(exported.task.name)
    if isinstance(task, ImageTask):
        raise ModelFileError(f"the model of run {exported.run_id} is of images: use `wardround-site segment`")
    if exported.task.version != task.version:
        raise ModelFileError(
            f"the model of run {exported.run_id} is of task {task.name} {exported.task.version}, this program has {task.version}"
        )
    return task


def model_of(exported: Exported, task: Task) -> nn.Module:
    """The model with its weights. Raises `ModelFileError` where this version builds another one by that name."""
    from tasks.models import load_parameters, parameter_specs, refuse_mixing  # imports torch

    model = task.build_model(exported.model.name, exported.options.model, exported.task.columns)
    refuse_mixing(model)
    if parameter_specs(model) != tuple((spec.name, spec.shape) for spec in exported.model.parameters):
        raise ModelFileError(f"the model of run {exported.run_id} has other tensors than {exported.model.name} has here")
    load_parameters(model, exported.parameters)
    return model.eval()


def inputs_of(exported: Exported, task: Task, values: Values) -> Inputs:
    """Model inputs (n, n_inputs) of the contract's `values` (n, n_columns), with the model's own buffers."""
    design = Design(task.contract, exported.task.columns)
    return design.encode(values, *design.split_buffers(exported.buffers))


def outputs_of(model: nn.Module, inputs: Inputs) -> NDArray[np.float64]:
    """What the model says of each record, (n, ...): logits, as they are."""
    import torch

    with torch.inference_mode():
        parts = [model(part).double() for part in torch.from_numpy(np.ascontiguousarray(inputs)).split(AT_ONCE)]
        found: NDArray[np.float64] = torch.cat(parts).numpy()
    return found


def scoring_of(exported: Exported, task: Task) -> Scoring:
    """How the run scored, as far as its files say: the same groups, and as many bins or `BINS`."""
    asked = exported.options
    return task.scoring(asked.bins or _bins(exported.facts) or BINS, asked.by)


def _bins(facts: Mapping[str, Json]) -> int:
    """Half the cells of the run's last histogram; without a `score_bins` of its own that is the number of bins."""
    found = facts.get("evaluation")
    cells = found.get("histogram") if isinstance(found, dict) else None
    return len(cells) // 2 if isinstance(cells, list) else 0
