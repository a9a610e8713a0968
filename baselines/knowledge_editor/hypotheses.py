"""Finds the answers for the KL constraint by beam search (`kl_over: beam`).

    KL(p ‖ q) = Σ_h p(h) (log p(h) − log q(h)),   h over the base model's k best hypotheses for a question o
    p(h) = p(h | o; θ) / Σ_h' p(h' | o; θ),   q(h) = p(h | o; θ') / Σ_h' p(h' | o; θ')

where p(h | o; θ) is the product over h's tokens, its end included. This is equation (6) of `method.py`, which
De Cao et al. 2021 define over all answers of a model. All answers of a sequence-to-sequence model cannot be
listed, so the paper uses the results of beam search as the sample space. The released code computes another
quantity, token by token along one answer (`kl_over: answer`). The best hypotheses are those of transformers'
beam search, which have the largest mean log-probability of a token.

Each constraint question has k rows, and with `answer` it has one. The hypotheses and p are computed once for
each question and kept.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kebench.models.base_logits import Question, blocks
from kebench.models.model import AbstractModel
from kebench.models.rows import Rows


@dataclass(frozen=True)
class Hypotheses:
    """Likely answers of the base model to a question.

    Attributes:
        answers: different answers, the best one first.
        log_p: (answers,). log p(h), in nats. The probabilities sum to 1.
    """

    answers: tuple[str, ...]
    log_p: Float[Tensor, " answers"]


class BaseHypotheses:
    """The k best hypotheses of the base model for a set of questions. Each question is searched once.

    A hypothesis that the model cannot read is left out: an empty one, one that does not end, and one whose
    tokens are not those of its text. If none is left, the only hypothesis is the question's answer, and the
    constraint has no effect.
    """

    def __init__(self, base: AbstractModel, questions: Iterable[Question], beams: int) -> None:
        """Takes the base model, the questions, and k as `beams`."""
        self._base = base
        self._beams = beams
        self._blocks = blocks(base, questions)
        self._kept: dict[Question, Hypotheses] = {}

    def of(self, question: Question) -> Hypotheses:
        """Returns the hypotheses for one of the questions."""
        if question not in self._kept:
            block = self._blocks[question]
            self._kept.update(zip(block, self._search(block), strict=True))
        return self._kept[question]

    @torch.no_grad()
    def _search(self, questions: Sequence[Question]) -> list[Hypotheses]:
        prompts = [prompt for prompt, _ in questions]
        answers = []
        for (prompt, own), texts in zip(questions, self._base.hypotheses(prompts, self._beams), strict=True):
            whole = [self._base.canonical(prompt, text) for text in texts]
            answers.append(tuple(dict.fromkeys(text for text in whole if text is not None)) or (own,))
        asked = [(prompt, text) for prompt, texts in zip(prompts, answers, strict=True) for text in texts]
        rows = self._base.rows(*zip(*asked, strict=True))
        scores = sequence_log_probs(self._base.logits(rows), rows).split([len(texts) for texts in answers])
        return [Hypotheses(texts, score.log_softmax(0)) for texts, score in zip(answers, scores, strict=True)]


def sequence_log_probs(logits: Float[Tensor, "scored vocab"], rows: Rows) -> Float[Tensor, " batch"]:
    """Returns the log-probability of each row's answer, its end included: a sum over tokens, in nats."""
    likely = logits.log_softmax(-1).gather(-1, rows.labels.unsqueeze(-1)).squeeze(-1)
    return likely.new_zeros(rows.batch).index_add(0, rows.row, likely)
