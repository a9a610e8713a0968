"""A preconditioned gradient step of Polyak's length, repeated until the model gives the answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

from kebench.edits.applications import edit_gradients, polyak_length, until_answered
from kebench.edits.edit import Batch, Edit
from kebench.edits.editor import (
    AbstractTrainedEditor,
    AbstractWeightEditor,
    Carried,
    State,
    TrainingSet,
    Workspace,
)
from kebench.edits.moments import preconditioners
from kebench.errors import check_positive
from kebench.models.changes import Changes, LowRankBatch
from kebench.models.layers import Layers, check_layers, editable
from kebench.models.model import AbstractModel, EditsInForce, base_weights


@dataclass(frozen=True)
class PreconditionedStep(AbstractWeightEditor, AbstractTrainedEditor):
    """θ' = θ − t ∇W P, repeated on the edited model until it answers a.

        L = −log p(a | x)              ∇W = its gradient for one weight matrix
        P = (C / e + I)⁻¹              C = E[x xᵀ] of the layer's inputs, e = ε · tr C / d_in
        t = scale · L / Σ tr(∇W P ∇Wᵀ)   Polyak's step length; the sum is over the edited matrices

    P shortens the step along directions that all inputs share, along which an edit would change other
    answers. The step length adapts to the edit, so no learning rate has to be tuned for a model. `prepare`
    only computes C, once, over questions that the base model answers.

    Attributes:
        layers: the layers whose matrices are changed: `first`, `last`, `all`, a list of numbers, or a pattern
            of parameter names (`kebench.models.layers.editable`).
        scale: the step's length; 1 would bring a loss that is linear in the weights to 0.
        epsilon: ε above 0. The smaller it is, the less the shared directions are changed.
        loop: the largest number of steps. An edit stops as soon as a is the greedy answer to x.
        moment_questions: the largest number of questions for C.
        seed: the seed for the choice of those questions.
    """

    learns_from: ClassVar[Literal["edits", "questions"]] = "questions"
    citation: ClassVar[str] = "martens2015optimizing; meng2022locating"

    layers: Layers = "last"
    scale: float = 2.0
    epsilon: float = 0.01
    loop: int = 5
    moment_questions: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "scale", "epsilon", "loop", "moment_questions")
        check_layers(self.layers)

    def prepared_by(self) -> "PreconditionedStep":
        """See `AbstractTrainedEditor.prepared_by`. `prepare` does not read `scale` and `loop`."""
        return replace(self, scale=2.0, loop=5)

    def prepare(self, base: AbstractModel, training: TrainingSet, workspace: Workspace) -> State:
        """See `AbstractTrainedEditor.prepare`. The state is parameter name → P."""
        names = editable(base.network, self.layers)
        return preconditioners(
            base, names, self.epsilon, training, at_most=self.moment_questions, seed=self.seed
        )

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        """See `AbstractWeightEditor.update`. The step of a batch is the sum of the steps of its edits."""
        return until_answered(start, batches, self.loop, partial(self.step, state, start)), carried

    def step(
        self, state: State, base: AbstractModel, edits: Sequence[Edit], under: EditsInForce = base_weights
    ) -> dict[str, LowRankBatch]:
        """Returns −t ∇W P of every edit as factors. ∇W = Dᵀ X, so ∇W P = Dᵀ (X P)."""
        losses, gradients = edit_gradients(base, edits, editable(base.network, self.layers), under)
        through = {name: gradient.X @ state[name].to(gradient.X) for name, gradient in gradients.items()}
        lengths = polyak_length(self.scale, losses, gradients, through).view(-1, 1, 1)
        return {
            name: LowRankBatch(B=-lengths * gradient.D.transpose(1, 2), A=through[name])
            for name, gradient in gradients.items()
        }
