"""A control: noise of the same size as KnowledgeEditor's update. It shows what the size alone does."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from kebench.edits.edit import Batch
from kebench.edits.editor import (
    AbstractTrainedEditor,
    AbstractWeightEditor,
    Carried,
    State,
    TrainingSet,
    Workspace,
)
from kebench.models.changes import Changes, LowRank
from kebench.models.model import AbstractModel

from ..knowledge_editor import KnowledgeEditor


@dataclass(frozen=True)
class RandomUpdate(AbstractWeightEditor, AbstractTrainedEditor):
    """Random updates: each matrix has the rank and the norm of KnowledgeEditor's update.

    Attributes:
        reference: the KnowledgeEditor whose updates are replaced. Its trained state is used.
        seed: the seed of the noise, together with the edit's id.
    """

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    reference: KnowledgeEditor = field(default_factory=KnowledgeEditor)
    seed: int = 0

    def prepared_by(self) -> KnowledgeEditor:
        """See `AbstractTrainedEditor.prepared_by`."""
        return self.reference.prepared_by()

    def prepare(self, base: AbstractModel, training: TrainingSet, workspace: Workspace) -> State:
        """See `AbstractTrainedEditor.prepare`."""
        return self.reference.prepare(base, training, workspace)

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        """See `AbstractWeightEditor.update`."""
        updates, _ = self.reference.update(state, start, batches, carried)
        return [self._noise(update, batch) for update, batch in zip(updates, batches, strict=True)], carried

    def _noise(self, update: Changes, batch: Batch) -> Changes:
        # The noise is drawn on the CPU, so that an edit has the same noise on every device.
        names = ",".join(edit.id for edit in batch)
        digest = hashlib.sha256(f"{self.seed}:{names}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        noise: dict[str, LowRank] = {}
        for name, change in update.items():
            assert isinstance(change, LowRank)
            # The factors of padding are 0. The padding depends on the batch, and the noise must not.
            rank = int((change.B != 0).any(dim=0).sum())
            b = torch.randn(len(change.B), rank, generator=generator).to(change.B)
            a = torch.randn(rank, change.A.shape[1], generator=generator).to(change.A)
            scale = frobenius(change.B, change.A) / frobenius(b, a).clamp_min(1e-30)
            noise[name] = LowRank(b * scale, a)
        return noise


def frobenius(b: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """Returns ‖B A‖ without the product: √tr(BᵀB · AAᵀ)."""
    return ((b.T @ b) * (a @ a.T)).sum().clamp_min(0).sqrt()
