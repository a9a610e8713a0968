"""The base model's logits, worked out once: the same as asked anew, in whatever order, for every family."""

from collections.abc import Sequence

import pytest
import tiny
import torch
from tolerance import assert_same, through
from torch import Tensor

from kebench.models.base_logits import BaseLogits, Question
from kebench.models.model import AbstractModel

EVERY_KIND = pytest.mark.parametrize("kind", tiny.KINDS)


def asked(kind: str, dtype: torch.dtype = torch.float32) -> tuple[AbstractModel, list[Question]]:
    """A model, and seventy questions: two whole blocks and a part of one."""
    base = tiny.model(kind, dtype=dtype)
    edits = [item.edit for item in tiny.training_set(base, kind).train]
    texts = [f"{edit.prompt}{more}" for more in ("", " so", " so there", " there") for edit in edits]
    targets = [edit.target for edit in edits]
    questions = [(text, targets[place % 7]) for place, text in enumerate(dict.fromkeys(texts))][:70]
    assert len(questions) == 70
    return base, questions


def anew(base: AbstractModel, questions: Sequence[Question]) -> Tensor:
    with torch.no_grad():
        return base.logits(
            base.rows([prompt for prompt, _ in questions], [answer for _, answer in questions])
        )


@EVERY_KIND
def test_they_are_the_models_own(kind: str) -> None:
    base, questions = asked(kind, torch.float64)
    kept = BaseLogits(base, questions)
    some = [*questions[40:60], *questions[:9], questions[3]]  # not in order, one twice
    for _ in range(2):
        assert_same(kept.of(some), anew(base, some), **through(base))


@EVERY_KIND
def test_the_network_is_asked_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, questions = asked(kind)
    kept = BaseLogits(base, questions)
    kept.of(questions)
    monkeypatch.setattr(base, "logits", lambda rows: pytest.fail("asked again"))
    kept.of(questions[::-1])


@EVERY_KIND
def test_the_order_of_need_changes_no_bit(kind: str) -> None:
    base, questions = asked(kind)
    forwards, backwards = BaseLogits(base, questions), BaseLogits(base, questions[::-1])
    for question in questions:
        forwards.of([question])
    for question in reversed(questions):
        backwards.of([question])
    assert torch.equal(forwards.of(questions), backwards.of(questions))


@pytest.mark.parametrize("kind", [kind for kind in tiny.KINDS if kind != "bert"])
def test_a_network_that_does_more_to_its_logits_is_asked_each_time(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, questions = asked(kind, torch.float64)
    plain = base.logits
    monkeypatch.setattr(base, "logits", lambda rows: plain(rows).tanh())
    assert_same(BaseLogits(base, questions).of(questions), anew(base, questions), **through(base))
