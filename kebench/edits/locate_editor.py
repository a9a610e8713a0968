"""Defines the base class of locate-then-edit editors. A subclass only writes its closed form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from kebench.edits.covariances import Covariances, context_texts
from kebench.edits.edit import Edit
from kebench.edits.editor import (
    AbstractTrainedEditor,
    AbstractWeightEditor,
    State,
    TrainingSet,
    Workspace,
)
from kebench.edits.locate import Fact, Values, ValueSettings, facts_of, learn_values, mlp_layer, read
from kebench.errors import BadSetting, check_positive
from kebench.models.changes import LowRank
from kebench.models.model import AbstractModel
from kebench.task import Family


@dataclass(frozen=True)
class AbstractLocateThenEdit(AbstractWeightEditor, AbstractTrainedEditor):
    """An editor that stores, for the subject's key, a value with which the model says a.

    A subclass writes `update`. This class has what every such method needs: the edits as tokens, the keys,
    the value to store, and the covariance of keys.

    Attributes:
        layers: the numbers of the layers whose MLPs are changed, ascending, counted from 0.
        steps, learning_rate, weight_decay, kl_factor, clamp: how δ is learnt (`ValueSettings`).
        end: True if the end of the answer is learnt too.
        contexts, questions, seed: the settings of the preparation (`Covariances`).
    """

    families: ClassVar[tuple[Family, ...]] = ("causal",)
    learns_from: ClassVar[Literal["edits", "questions"]] = "questions"

    layers: tuple[int, ...] = (5,)
    steps: int = 25
    learning_rate: float = 0.5
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    clamp: float = 4.0
    end: bool = True
    contexts: int = 5
    questions: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "steps", "learning_rate", "clamp")
        if list(self.layers) != sorted(set(self.layers)) or not self.layers:
            raise BadSetting(f"layers: found {list(self.layers)}, wanted numbers in ascending order")

    def prepared_by(self) -> Covariances:
        """See `AbstractTrainedEditor.prepared_by`. Editors of the same layers share one state."""
        return Covariances(self.layers, self.questions, self.contexts, self.seed)

    def prepare(self, base: AbstractModel, training: TrainingSet, workspace: Workspace) -> State:
        """See `AbstractTrainedEditor.prepare`."""
        return self.prepared_by().prepare(base, training, workspace)

    def facts(self, state: State, base: AbstractModel, edits: Sequence[Edit]) -> list[Fact]:
        """Returns the edits as tokens, with the contexts of the state.

        Raises:
            BadSetting: an edit has no subject, or its prompt does not contain it.
        """
        return facts_of(base, edits, context_texts(base, state), end=self.end)

    def values(self, base: AbstractModel, facts: Sequence[Fact], *, of: Literal["mlp", "layer"]) -> Values:
        """Returns m₀ and δ of each fact, for the output of the MLP's last map or of the whole layer.

        It is the last of `layers`, in the model with its present weights.
        """
        last = mlp_layer(base, self.layers[-1])
        (weight,) = last.mlp_out
        module = last.name if of == "layer" else weight.removesuffix(".weight")
        settings = ValueSettings(
            self.steps, self.learning_rate, self.weight_decay, self.kl_factor, self.clamp
        )
        return learn_values(base, facts, module, weight, settings)

    def keys(
        self, base: AbstractModel, facts: Sequence[Fact], weight: str
    ) -> tuple[Float[Tensor, "facts contexts d_in"], Float[Tensor, "facts contexts d_out"]]:
        """Returns a map's input and output for each context of each fact, the bare prompt first."""
        texts = [text for fact in facts for text in fact.contexts]
        k, v = read(base, texts, weight, weight.removesuffix(".weight"))
        return k.view(len(facts), -1, k.shape[-1]), v.view(len(facts), -1, v.shape[-1])


def low_rank(
    base: AbstractModel, weight: str, b: Float[Tensor, "d_out rank"], a: Float[Tensor, "rank d_in"]
) -> LowRank:
    """Returns B A as the change of a weight, in the weight's own type and on its device."""
    like = base.network.get_parameter(weight)
    return LowRank(b.to(like), a.to(like))
