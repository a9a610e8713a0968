"""The evaluation loop of De Cao et al.'s code, written anew from its description, to measure against.

For each edit: a dense copy of the whole model, every parameter plus its change; the whole test set again,
tokenised again, 256 rows at a time, padded to 32 tokens; a generating model decodes with beam 5 and returns
all five; and all scores so far are computed again. It is kinder than the original, which copies the model for
every batch, tokenises in Python, and makes its update dense from the start.
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
    """What one edited model said, to x and then to every test row, and what it took.

    Attributes:
        answers: labels, or the best of each row's beam.
        margins: of a classifier's rows: the lead of the second label over the first; else empty.
        edit_seconds: making the edited model.
        answer_seconds: asking it, and computing all scores again.
    """

    answers: list[str]
    margins: list[float]
    edit_seconds: float
    answer_seconds: float


def evaluate(world: World, cases: Sequence[Case]) -> list[Answered]:
    """Every edit, one after the other."""
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
    """The whole model once more, with every parameter θ + Δ."""
    (update,) = world.editor.update(world.state, world.model, [edit])
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
    """The answers of a network that stands in for the model's, and a classifier's margins."""
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
    """The best of five hypotheses a row; all five are decoded, as the original does."""
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
    """Success and retain rate over all edits so far, as a progress bar shows them after each."""
    success = [answers[0] == case.edit.target for case, answers in zip(cases, said, strict=False)]
    kept = [
        answer == row.answer
        for case, answers in zip(cases, said, strict=False)
        for row, answer in zip(world.plan.base, answers[1:], strict=True)
        if row.id != case.edit.id
    ]
    return sum(success) / len(success), sum(kept) / len(kept)
