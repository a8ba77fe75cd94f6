"""A task on one table with one row per patient and a yes/no label: name the contract, and everything else is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from tasks import models
from tasks.base import Contract, Options
from tasks.errors import ContractError
from tasks.features import Design
from tasks.scoring.base import Scoring
from tasks.scoring.binary import BinaryScoring


@dataclass(frozen=True)
class TabularTask:
    """Binary outcome from a contract's columns, by logistic regression or a small perceptron."""

    contract: Contract

    @property
    def name(self) -> str:
        """Name in plans and in the registry."""
        return self.contract.task

    @property
    def version(self) -> str:
        """Version of the contract; models and loss change only with it."""
        return self.contract.version

    @property
    def model_names(self) -> tuple[str, ...]:
        """`logistic` and `mlp`."""
        return models.MODEL_NAMES

    @property
    def records(self) -> int:
        """One row is one patient."""
        return 1

    def build_model(self, name: str, options: Options, columns: Sequence[str] | None = None) -> nn.Module:
        """Model for the design of `columns` (all if None); see `tasks.models.build_model`."""
        names = None if columns is None else tuple(columns)
        return models.build_model(name, Design(self.contract, names).n_inputs, options)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """One class."""
        return ()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy per patient, in nats: (batch,) from (batch,) logits and 0/1 labels."""
        losses: Tensor = functional.binary_cross_entropy_with_logits(outputs, labels.to(outputs.dtype), reduction="none")
        return losses

    def scoring(self, bins: int, by: Sequence[str] = ()) -> Scoring:
        """Score histograms by label."""
        if by:
            raise ContractError(f"task {self.name} has no figures by {', '.join(by)}")
        return BinaryScoring(bins)
