"""The networks that read the condition and compute the vectors of an edit's update (`method.py`)."""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence

from .method import HeadVectors


class ConditionEncoder(nn.Module):
    """Computes one vector for each edit from its condition `y >> a || x`."""

    def __init__(
        self, embeddings: Float[Tensor, "vocab hidden"], lstm_size: int, condition_size: int
    ) -> None:
        super().__init__()
        # A copy: the original code shares storage with the base model, and changes it (reference §1.10, 4).
        self.embedding = nn.Embedding.from_pretrained(embeddings.detach().clone(), freeze=False)
        self.lstm = nn.LSTM(embeddings.shape[1], lstm_size, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * lstm_size, condition_size)

    def forward(
        self, ids: Int[Tensor, "edits tokens"], lengths: Int[Tensor, " edits"]
    ) -> Float[Tensor, "edits condition"]:
        """Returns tanh(W [h→; h←] + b), where h are the last states of both directions, without padding."""
        packed = pack_padded_sequence(
            self.embedding(ids), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, (last, _) = self.lstm(packed)  # (2, edits, lstm_size): forward, backward
        return torch.tanh(self.linear(torch.cat([last[0], last[1]], dim=-1)))


class Head(nn.Module):
    """Computes the vectors α, β (d_out), γ, δ (d_in) and η (1) of one weight matrix."""

    def __init__(self, condition_size: int, hidden_size: int, d_out: int, d_in: int) -> None:
        super().__init__()
        self.d_in = d_in
        self.sizes = (d_in, d_out, d_in, d_out, 1)
        self.layers = nn.Sequential(
            weight_norm(nn.Linear(condition_size, hidden_size)),
            nn.Tanh(),
            weight_norm(nn.Linear(hidden_size, sum(self.sizes))),
        )

    def forward(self, condition: Float[Tensor, "edits condition"]) -> HeadVectors:
        """Returns the vectors of every edit."""
        gamma, alpha, delta, beta, eta = self.layers(condition).split(self.sizes, dim=-1)
        return HeadVectors(alpha=alpha, beta=beta, gamma=gamma, delta=delta, eta=eta)


class Hypernetwork(nn.Module):
    """One condition encoder, and one head for each edited matrix.

    Attributes:
        names: the names of the edited matrices, each of which has a head.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        embeddings: Float[Tensor, "vocab hidden"],
        *,
        lstm_size: int,
        condition_size: int,
        head_size: int,
    ) -> None:
        """Takes the shapes, parameter name → (d_out, d_in), and the base model's embeddings."""
        super().__init__()
        self.names = tuple(shapes)
        self.encoder = ConditionEncoder(embeddings, lstm_size, condition_size)
        self.heads = nn.ModuleDict(
            {_key(name): Head(condition_size, head_size, *shape) for name, shape in shapes.items()}
        )

    def head(self, name: str) -> Head:
        """Returns the head of one parameter."""
        head = self.heads[_key(name)]
        assert isinstance(head, Head)
        return head

    def forward(
        self, ids: Int[Tensor, "edits tokens"], lengths: Int[Tensor, " edits"], names: Iterable[str]
    ) -> dict[str, HeadVectors]:
        """Returns parameter name → the vectors of every edit, from the conditions' token ids and lengths.

        The heads are called in the order of `names`. Training sums gradients in that order, so their last
        bits depend on it.
        """
        condition = self.encoder(ids, lengths)
        return {name: self.head(name)(condition) for name in names}


def _key(name: str) -> str:
    """Returns a parameter's name in a form that is allowed as the name of a module."""
    return name.replace(".", "_")
