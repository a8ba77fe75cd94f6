"""A task on one table with one row per patient and a yes/no label: name the contract, and everything else is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from tasks import models
from tasks.base import Contract, Options
from tasks.features import Design
from tasks.metrics import Scale
from tasks.scoring.base import Scoring
from tasks.scoring.binary import BinaryScoring
from tasks.scoring.groups import groupings


@dataclass(frozen=True)
class TabularTask:
    """Binary outcome from a contract's columns, by a model of `tasks.models`."""

    contract: Contract

    scale: ClassVar[Scale] = "probability"  # of the bins that predictions are counted in; "root_odds" for rare events

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
        """All of `tasks.models`."""
        return models.MODEL_NAMES

    @property
    def records(self) -> int:
        """One row is one patient."""
        return 1

    def build_model(self, name: str, options: Options, columns: Sequence[str] | None = None) -> nn.Module:
        """Model for the design of `columns` (all if None); see `tasks.models.build_model`."""
        names = None if columns is None else tuple(columns)
        return models.build_model(name, Design(self.contract, names), options)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """One class."""
        return ()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy per patient, in nats: (batch,) from (batch,) logits and 0/1 labels."""
        losses: Tensor = functional.binary_cross_entropy_with_logits(outputs, labels.to(outputs.dtype), reduction="none")
        return losses

    def scoring(self, bins: int, by: Sequence[str] = ()) -> Scoring:
        """Score histograms by label, and by sex and age where the contract knows them."""
        return BinaryScoring(bins, groupings(self.contract, by), self.scale)
