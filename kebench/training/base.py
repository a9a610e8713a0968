"""Fine-tunes a base model on a task as the paper does: with AdamW, linear warm-up and linear decay."""

import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from kebench.errors import BadSetting, check_positive
from kebench.files.card import write_card
from kebench.files.shipped import MODEL_CARD
from kebench.files.yaml import validated
from kebench.models.load import FAMILIES, LOADERS, label_fields, load_config, load_pretrained
from kebench.models.model import AbstractModel, PromptFormat
from kebench.models.rows import target_loss
from kebench.packs.record import Record
from kebench.scoring.normalise import normalise
from kebench.task import ModelRecipe, Task
from kebench.training.checkpoints import load_checkpoint, save_checkpoint
from kebench.training.schedule import warmup_then_decay

logger = logging.getLogger(__name__)

MEASURED = 1000
"""The largest number of questions on which a training accuracy is measured."""
GROWS_FROM = 0.03
"""The share of the facts that a growing training set has at the first step (`Training.growing_steps`)."""


@dataclass(frozen=True)
class Training:
    """Settings of a fine-tuning. The defaults are those of De Cao et al.'s code for FEVER.

    Attributes:
        learning_rate: the highest learning rate.
        weight_decay: the weight decay of matrices; biases and normalisation weights have none.
        warmup_steps: the number of steps in which the learning rate rises linearly from 0.
        decay_steps: the step at which the learning rate would reach 0; 0 means `max_steps`.
        max_steps: the number of optimiser steps.
        batch_size: the number of questions in each step.
        label_smoothing: the label smoothing ε of generative models.
        dropout: the dropout rate; None keeps that of the checkpoint.
        evaluate_every: the number of steps between evaluations on the dev split, and between checkpoints.
        paraphrases: if True, the model is trained on the paraphrases of records too.
        shown: the share of (record, wording) pairs used for training, chosen by hash. If it is below 1, the
            model learns the facts of all splits, and accuracy is measured on the pairs not used for training.
        growing_steps: the number of steps in which the training set grows from the share `GROWS_FROM` of the
            facts to all of them, by the same factor in each step. 0 uses all facts from the first step. A new
            network that is trained on thousands of claims at once makes no progress, because the truth of a
            claim depends on its subject and object together. It can memorise a hundred facts, and then learn
            more and more.
        save_as: the type in which the weights are saved; training is in float32.
        seed: the seed of new weights and of the batches.
    """

    learning_rate: float = 3e-5
    weight_decay: float = 0.01
    warmup_steps: int = 500
    decay_steps: int = 10_000
    max_steps: int = 10_000
    batch_size: int = 64
    label_smoothing: float = 0.1
    dropout: float | None = None
    evaluate_every: int = 500
    paraphrases: bool = False
    shown: float = 1.0
    growing_steps: int = 0
    save_as: Literal["float32", "float16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.shown <= 1:
            raise BadSetting(f"training: shown: found {self.shown}, wanted more than 0 and at most 1")
        check_positive(self, "learning_rate", "max_steps", "batch_size", "evaluate_every")
        check_positive(
            self, "weight_decay", "warmup_steps", "decay_steps", "label_smoothing", "growing_steps",
            or_zero=True,
        )  # fmt: skip


@dataclass(frozen=True)
class Question:
    """One wording of a record, with the record's gold answers and fact key."""

    prompt: str
    answers: tuple[str, ...]
    fact: str


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        folder: the folder of the model.
        dev_accuracy: the share of dev questions whose decoded answer is a gold answer. If `Training.shown` is
            below 1, it is measured on up to `MEASURED` (record, wording) pairs that were not used for
            training.
        train_accuracy: the same on up to `MEASURED` pairs that were used for training.
        seconds: the total training time, including attempts that were interrupted.
        history: step, loss and dev accuracy at each evaluation.
    """

    folder: Path
    dev_accuracy: float
    train_accuracy: float
    seconds: float
    history: list[tuple[int, float, float]] = field(default_factory=list)


Report = Callable[[int, int, str], None]


def train_base(
    name: str,
    recipe: ModelRecipe,
    task: Task,
    splits: Mapping[str, Sequence[Record]],
    out: Path,
    *,
    pack_sha256: str = "",
    device: str = "cpu",
    report: Report = lambda _step, _steps, _words: None,
) -> Trained:
    """Fine-tunes a base model and writes it (as safetensors) with a card to the folder `out`.

    A training that is interrupted leaves a checkpoint beside `out`. The next call continues from it and ends
    with the same weights as a training that was not interrupted.

    Args:
        name: the name of the model.
        recipe: how the model is made.
        task: the task that it is trained for.
        splits: the name of each split → the records of the pack.
        out: the folder to write.
        pack_sha256: the hash of the pack, for the card.
        device: the device to train on.
        report: called after each step with the step, the number of steps, and the progress in words.

    Raises:
        BadSetting: the recipe has neither a start nor an architecture.
    """
    settings = validated(Training, dict(recipe.training), f"model {name}: training")
    made_of = training_key(recipe, task, pack_sha256)
    torch.manual_seed(settings.seed)  # for the weights of a new head or a new network
    shown, unshown = _pairs(splits, settings)
    network, tokenizer = _start(name, recipe, task, settings, shown)
    nn.Module.to(network, torch.device(device))
    model = FAMILIES[task.family](name, network, tokenizer, PromptFormat.of(task))
    network.requires_grad_(True)
    # A growing training set takes facts, with all their records and wordings, in the order of a hash.
    lessons = sorted(shown, key=lambda each: _digest(each.fact)) if settings.growing_steps else shown

    optimizer = torch.optim.AdamW(
        _parameter_groups(network, settings.weight_decay), lr=settings.learning_rate
    )
    checkpoint = out.with_name(out.name + ".training.safetensors")
    found = load_checkpoint(checkpoint, network, optimizer, made_of=made_of)
    counters: dict[str, Any] = found or {"step": 0, "seconds": 0.0, "history": []}
    started = time.monotonic() - counters["seconds"]
    decay_steps = settings.decay_steps or settings.max_steps
    for step in range(counters["step"], settings.max_steps):
        rate = settings.learning_rate * warmup_then_decay(step, settings.warmup_steps, decay_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        model.network.train()
        loss = _loss(model, _batch(lessons, settings, step), settings)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        last = step + 1 == settings.max_steps
        if last or (step + 1) % settings.evaluate_every == 0:
            accuracy = accuracy_of(model, unshown)
            history = [*counters["history"], (step + 1, loss.item(), accuracy)]
            counters = {"step": step + 1, "seconds": time.monotonic() - started, "history": history}
            save_checkpoint(checkpoint, network, optimizer, counters, made_of=made_of)
            logger.info("step %d: loss %.4f, dev accuracy %.4f", *history[-1])
        told = f"loss {loss.item():.3f}" + (
            f", dev {history[-1][2]:.1%}" if (history := counters["history"]) else ""
        )
        report(step + 1, settings.max_steps, told)

    if settings.save_as == "float16":
        network.half().float()  # so that accuracy is measured with the weights as they are saved
    result = Trained(
        folder=out,
        dev_accuracy=accuracy_of(model, unshown),
        train_accuracy=accuracy_of(model, shown[:MEASURED]),
        seconds=counters["seconds"],
        history=[tuple(row) for row in counters["history"]],
    )
    _write(model, recipe, settings, task, pack_sha256, result)
    checkpoint.unlink(missing_ok=True)
    return result


def training_key(recipe: ModelRecipe, task: Task, pack_sha256: str) -> str:
    """Returns a SHA-256 of what a base model is trained from and with."""
    made_of = [asdict(recipe), task.name, task.version, asdict(PromptFormat.of(task)), pack_sha256]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _pairs(
    splits: Mapping[str, Sequence[Record]], settings: Training
) -> tuple[list[Question], list[Question]]:
    """Returns the questions used for training, and those on which dev accuracy is measured."""
    if settings.shown == 1:
        train, dev = splits["train"], splits["dev"]
        return list(_questions(train, settings.paraphrases)), list(_questions(dev, False))
    shown: list[Question] = []
    unshown: list[Question] = []
    for question in _questions((r for part in splits.values() for r in part), settings.paraphrases):
        draw = _digest(question.prompt) % 1_000_000
        (shown if draw < settings.shown * 1_000_000 else unshown).append(question)
    random.Random(settings.seed).shuffle(shown)  # so that the first ones are a random sample
    random.Random(settings.seed).shuffle(unshown)
    return shown, unshown[:MEASURED]


def _questions(records: Iterable[Record], paraphrases: bool) -> Iterator[Question]:
    for record in records:
        for text in (record.prompt, *(p.text for p in record.paraphrases if paraphrases)):
            yield Question(text, record.answers, record.fact)


def _digest(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def accuracy_of(model: AbstractModel, questions: Sequence[Question | Record]) -> float:
    """Returns the share of questions whose decoded answer is a gold answer; NaN if there are no questions."""
    if not questions:
        return float("nan")
    model.network.eval()
    answers = model.answer([q.prompt for q in questions], guesses=[q.answers[0] for q in questions])
    hits = sum(
        normalise(answer) in {normalise(gold) for gold in question.answers}
        for answer, question in zip(answers, questions, strict=True)
    )
    return hits / len(questions)


def _loss(model: AbstractModel, batch: Sequence[Question], settings: Training) -> Tensor:
    rows = model.rows([each.prompt for each in batch], [each.answers[0] for each in batch])
    smoothing = settings.label_smoothing if model.family != "classifier" else 0.0
    return target_loss(model.logits(rows), rows, smoothing=smoothing).mean()


def _batch(pairs: Sequence[Question], settings: Training, step: int) -> list[Question]:
    """Returns the questions of a step, which depend only on the step, so that a training can be resumed."""
    if step < settings.growing_steps:
        share = GROWS_FROM ** (1 - step / settings.growing_steps)
        there = range(max(settings.batch_size, int(share * len(pairs))))
        chosen = tuple(random.Random(f"{settings.seed}:step {step}").sample(there, settings.batch_size))
    else:
        a_pass, place = divmod(step * settings.batch_size, len(pairs))
        chosen = _order(settings.seed, a_pass, len(pairs))[place : place + settings.batch_size]
        if len(chosen) < settings.batch_size:  # the epoch ends inside this batch
            chosen += _order(settings.seed, a_pass + 1, len(pairs))[: settings.batch_size - len(chosen)]
    # Dropout uses the global random generator. It is seeded for each step, so a resumed training is the same.
    torch.manual_seed(settings.seed * 1_000_003 + step)
    return [pairs[index] for index in chosen]


@lru_cache(maxsize=2)
def _order(seed: int, a_pass: int, size: int) -> tuple[int, ...]:
    order = list(range(size))
    random.Random(f"{seed}:{a_pass}").shuffle(order)
    return tuple(order)


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _start(
    name: str, recipe: ModelRecipe, task: Task, settings: Training, shown: Sequence[Question]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Returns the network before the first training step, and its tokenizer."""
    if recipe.start is None:
        if not recipe.architecture:
            raise BadSetting(f"model {name}: found neither start nor architecture, wanted one of them")
        return _from_scratch(recipe, task, settings, shown)
    config = load_config(recipe.start, revision=recipe.revision)
    options: dict[str, Any] = _dropout(config, settings.dropout)
    if task.family == "classifier":
        options |= label_fields(task.labels)
    network, tokenizer = load_pretrained(
        recipe.start, task.family, revision=recipe.revision, new_head=True, **options
    )
    if network.can_generate():  # the training targets do not begin with a forced BOS token
        network.generation_config.forced_bos_token_id = None
    return network, tokenizer


def _dropout(config: PreTrainedConfig, rate: float | None) -> dict[str, float]:
    """Returns the configuration fields that set the dropout rate; each architecture has its own names."""
    names = (
        "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "dropout_rate",
        "attn_pdrop", "embd_pdrop", "resid_pdrop",
    )  # fmt: skip
    return {} if rate is None else dict.fromkeys((name for name in names if name in config.to_dict()), rate)


def _from_scratch(
    recipe: ModelRecipe, task: Task, settings: Training, shown: Sequence[Question]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Returns a new network of the recipe's architecture and a new byte-level BPE tokenizer."""
    fields = dict(recipe.architecture)
    texts = (text for each in shown for text in (each.prompt, *each.answers))
    tokenizer = bpe_tokenizer(texts, int(fields.pop("vocab_size")))
    config = AutoConfig.for_model(
        fields.pop("model_type"),
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
        **(label_fields(task.labels) if task.family == "classifier" else {}),
        **fields,
    )
    config.update(_dropout(config, settings.dropout))
    return LOADERS[task.family].from_config(config, trust_remote_code=False), tokenizer


def bpe_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Returns a byte-level BPE tokenizer, with BART's special tokens, trained on texts."""
    learner = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    learner.train_from_iterator(texts, vocab_size=vocab_size, special_tokens=special, show_progress=False)
    from tokenizers.processors import RobertaProcessing

    learner._tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=learner._tokenizer,
        bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>", mask_token="<mask>",
        cls_token="<s>", sep_token="</s>",
    )  # fmt: skip


def _write(
    model: AbstractModel, recipe: ModelRecipe, settings: Training, task: Task, pack: str, result: Trained
) -> None:
    """Writes the model's folder: weights, tokenizer and card."""
    folder = result.folder
    if settings.save_as == "float16":
        model.network.half()
    model.save(folder)
    model.network.float()
    facts = {
        "name": model.name,
        "task": task.name,
        "task_version": task.version,
        "pack_sha256": pack,
        "start": Path(recipe.start).name if recipe.start else "from scratch",
        "training": asdict(settings),
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "dev_accuracy": result.dev_accuracy,
        "train_accuracy": result.train_accuracy,
        "seconds": round(result.seconds, 1),
        "torch_threads": torch.get_num_threads(),
        "device": str(model.device),
    }
    about = f"Base model for the kebench task `{task.name}`."
    write_card(folder, MODEL_CARD, about, facts, made_of=training_key(recipe, task, pack))
