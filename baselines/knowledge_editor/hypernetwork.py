"""The network that turns an edit's gradient into an update (De Cao et al. 2021, §3.3 and appendix).

    ∇̃W = σ(η) · (α̂ ⊙ ∇_W L(W; x, a) + β̂),   α̂ = softmax(α) γᵀ,   β̂ = softmax(β) δᵀ

With ∇W = Dᵀ X over T tokens, the mask α̂ of rank one keeps the rank: α̂ ⊙ ∇W = (D ⊙ softmax(α))ᵀ (X ⊙ γ).
So the update has rank at most T + 1 and is never made dense.

Two things that are not in the paper can be had:

    step: polyak      ∇̃W starts as −scale σ(η) ∇W · L / ‖∇W‖²: the masks start at 1 (d_out softmax(α), γ − 1)
                      instead of near 0, and the length is that which would bring a linear loss from L to 0,
                      Polyak's, whatever the model and the edit. ‖·‖² is the sum over all edited matrices.
    precondition      ∇̃W P with P = (C / e + I)⁻¹, where C = E[x xᵀ] of the layer's inputs, as in K-FAC
                      (Martens and Grosse 2015) and ROME (Meng et al. 2022): what all inputs share, and an
                      edit leaks through to other questions, is spared. ‖∇W‖² is then tr(∇W P ∇Wᵀ).

With both, training starts from the update of `baselines/preconditioned_step`, but for the heads' random
initial weights.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence

from kebench.edits.applications import polyak_length
from kebench.edits.gradients import GradientFactors
from kebench.models.changes import LowRankBatch


class ConditionEncoder(nn.Module):
    """Reads the condition `y >> a || x` into one vector an edit."""

    def __init__(
        self, embeddings: Float[Tensor, "vocab hidden"], lstm_size: int, condition_size: int
    ) -> None:
        super().__init__()
        # A copy: the original shares storage with the base model, and so corrupts it (reference §1.10, 4).
        self.embedding = nn.Embedding.from_pretrained(embeddings.detach().clone(), freeze=False)
        self.lstm = nn.LSTM(embeddings.shape[1], lstm_size, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * lstm_size, condition_size)

    def forward(
        self, ids: Int[Tensor, "edits tokens"], lengths: Int[Tensor, " edits"]
    ) -> Float[Tensor, "edits condition"]:
        """tanh(W [h→; h←] + b), where h are the last states over the tokens before the padding."""
        packed = pack_padded_sequence(
            self.embedding(ids), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, (last, _) = self.lstm(packed)  # (2, edits, lstm_size): forward, backward
        return torch.tanh(self.linear(torch.cat([last[0], last[1]], dim=-1)))


class Head(nn.Module):
    """The conditioned vectors α, β (d_out), γ, δ (d_in) and η (1) of one weight matrix."""

    preconditioner: Tensor | None

    def __init__(
        self,
        condition_size: int,
        hidden_size: int,
        d_out: int,
        d_in: int,
        *,
        polyak: bool,
        preconditioned: bool,
    ) -> None:
        super().__init__()
        self.polyak = polyak
        self.register_buffer("preconditioner", torch.eye(d_in) if preconditioned else None)
        self.sizes = (d_in, d_out, d_in, d_out, 1)
        self.layers = nn.Sequential(
            weight_norm(nn.Linear(condition_size, hidden_size)),
            nn.Tanh(),
            weight_norm(nn.Linear(hidden_size, sum(self.sizes))),
        )

    def forward(
        self, condition: Float[Tensor, "edits condition"], gradient: GradientFactors, length: float | Tensor
    ) -> LowRankBatch:
        """∇̃W of every edit as factors; B (edits, d_out, T + 1), A (edits, T + 1, d_in)."""
        gamma, alpha, delta, beta, eta = self.layers(condition).split(self.sizes, dim=-1)
        alpha = alpha.softmax(-1)
        if self.polyak:
            alpha, gamma = alpha.shape[-1] * alpha, gamma - 1
        masked_d = gradient.D * alpha.unsqueeze(1)  # (edits, T, d_out)
        masked_x = gradient.X * gamma.unsqueeze(1)  # (edits, T, d_in)
        b = torch.cat([masked_d, beta.softmax(-1).unsqueeze(1)], dim=1)
        a = torch.cat([masked_x, delta.unsqueeze(1)], dim=1)
        strength = length * torch.sigmoid(eta).unsqueeze(-1)  # (edits, 1, 1)
        return LowRankBatch(B=strength * b.transpose(1, 2), A=self.precondition(a))

    def precondition(self, rows: Float[Tensor, "edits rank d_in"]) -> Float[Tensor, "edits rank d_in"]:
        """Rows of the layer's input space, times P."""
        return rows if self.preconditioner is None else rows @ self.preconditioner


class Hypernetwork(nn.Module):
    """One condition encoder, and one head for each edited matrix."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        embeddings: Float[Tensor, "vocab hidden"],
        *,
        lstm_size: int,
        condition_size: int,
        head_size: int,
        scale: float,
        polyak: bool = False,
        preconditioned: bool = False,
    ) -> None:
        """`shapes`: parameter name → (d_out, d_in). `embeddings`: the base model's, to start from."""
        super().__init__()
        self.scale, self.polyak = scale, polyak
        self.encoder = ConditionEncoder(embeddings, lstm_size, condition_size)
        self.heads = nn.ModuleDict(
            {
                _key(name): Head(
                    condition_size, head_size, *shape, polyak=polyak, preconditioned=preconditioned
                )
                for name, shape in shapes.items()
            }
        )

    def head(self, name: str) -> Head:
        """The head of one parameter."""
        head = self.heads[_key(name)]
        assert isinstance(head, Head)
        return head

    def forward(
        self,
        ids: Int[Tensor, "edits tokens"],
        lengths: Int[Tensor, " edits"],
        gradients: Mapping[str, GradientFactors],
        losses: Float[Tensor, " edits"],
    ) -> dict[str, LowRankBatch]:
        """The update of every edit: parameter name → factors; `losses` are what the gradients are of."""
        condition = self.encoder(ids, lengths)
        length: float | Tensor = self.scale
        if self.polyak:
            through = {name: self.head(name).precondition(each.X) for name, each in gradients.items()}
            length = polyak_length(self.scale, losses, gradients, through).view(-1, 1, 1)
        return {name: self.head(name)(condition, gradient, length) for name, gradient in gradients.items()}


def _key(name: str) -> str:
    """A parameter's name as a module may be called."""
    return name.replace(".", "_")
