"""The evaluation loop of De Cao et al.'s code, rewritten from its description, for comparison.

For each edit it makes a dense copy of the whole model, in which each parameter is changed. The copy answers
the whole test set, which is tokenised again, in batches of 256 rows padded to 32 tokens. A generative model
decodes with 5 beams, and all 5 answers are returned. Then all scores so far are computed again. This is
faster than the original, which copies the model for each batch, tokenises in Python, and computes a dense
update.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.timing import clock
from benchmarks.worlds import World
from kebench.edits.edit import Edit
from kebench.models.changes import Dense
from kebench.models.model import AbstractModel
from kebench.running.cases import Case

BATCH, TOKENS, BEAMS = 256, 32, 5


@dataclass(frozen=True)
class Answered:
    """The answers of one edited model, to x and then to all test rows, and the time that they took.

    Attributes:
        answers: the labels, or the best answer of each beam search.
        margins: for a classifier, the logit of the second label minus that of the first; otherwise empty.
        edit_seconds: the time to make the edited model.
        answer_seconds: the time to answer and to compute all scores again.
    """

    answers: list[str]
    margins: list[float]
    edit_seconds: float
    answer_seconds: float


def evaluate(world: World, cases: Sequence[Case]) -> list[Answered]:
    """Makes and evaluates all edits, one after the other."""
    device = world.model.device
    found: list[Answered] = []
    for case in cases:
        started = clock(device)
        network = edited_copy(world, case.edit)
        made = clock(device)
        answers, margins = ask(world.model, network, [case.edit.prompt, *world.prompts])
        said = [*(earlier.answers for earlier in found), answers]
        scores(world, cases, said)
        found.append(Answered(answers, margins, made - started, clock(device) - made))
    return found


def edited_copy(world: World, edit: Edit) -> torch.nn.Module:
    """Returns a copy of the whole model, in which each parameter is θ + Δ."""
    (update,) = world.updates([edit], world.model)
    network: torch.nn.Module = copy.deepcopy(world.model.network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            change = update.get(name)
            if change is None:
                delta = torch.zeros_like(parameter)
            else:
                delta = change.delta if isinstance(change, Dense) else change.B @ change.A
            parameter.add_(delta)
    return network


@torch.inference_mode()
def ask(
    model: AbstractModel, network: torch.nn.Module, prompts: Sequence[str]
) -> tuple[list[str], list[float]]:
    """Returns the answers of a network used in place of the model's, and the margins of a classifier."""
    answers: list[str] = []
    margins: list[float] = []
    for start in range(0, len(prompts), BATCH):
        texts = [
            model.prompt_format.template.format(prompt=prompt) for prompt in prompts[start : start + BATCH]
        ]
        options = {"padding": "max_length", "truncation": True, "max_length": TOKENS, "return_tensors": "pt"}
        inputs = model.tokenizer(texts, **options).to(model.device)
        inputs.pop("token_type_ids", None)
        if model.family == "classifier":
            logits: Tensor = network(**inputs).logits.float()
            answers += [model.prompt_format.labels[index] for index in logits.argmax(-1).tolist()]
            margins += (logits[:, 1] - logits[:, 0]).tolist()
        else:
            answers += _decoded(model, network, inputs)
    return answers, margins


def _decoded(model: AbstractModel, network: torch.nn.Module, inputs: dict[str, Tensor]) -> list[str]:
    """Returns the best of five answers for each row. All five become text, as in the original."""
    ids = network.generate(  # type: ignore[operator]
        **inputs,
        num_beams=BEAMS,
        num_return_sequences=BEAMS,
        do_sample=False,
        max_new_tokens=model.prompt_format.max_answer_tokens,
    )
    texts = model.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [text.strip() for text in texts[::BEAMS]]


def scores(world: World, cases: Sequence[Case], said: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Returns success and retain rate over all edits so far; the original shows them after each edit."""
    success = [answers[0] == case.edit.target for case, answers in zip(cases, said, strict=False)]
    kept = [
        answer == row.answer
        for case, answers in zip(cases, said, strict=False)
        for row, answer in zip(world.plan.base, answers[1:], strict=True)
        if row.id != case.edit.id
    ]
    return sum(success) / len(success), sum(kept) / len(kept)
