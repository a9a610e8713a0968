"""Fine-tuning a base model on a task, the paper's way: AdamW, linear warm-up and decay."""

import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import nn
from transformers import (
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from kebench.checkpoints import load_checkpoint, save_checkpoint
from kebench.errors import BadSetting, check_positive
from kebench.models.load import FAMILIES, LOADERS, label_fields, load_config, load_pretrained
from kebench.models.model import AbstractModel, Asking
from kebench.models.rows import target_loss
from kebench.normalise import normalise
from kebench.packs.record import Record
from kebench.schedule import warmup_then_decay
from kebench.task import ModelRecipe, Task
from kebench.yaml_files import validated

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """Settings of one fine-tuning; the defaults are De Cao et al.'s for FEVER (`reference`: their code).

    Attributes:
        learning_rate: the peak.
        weight_decay: of matrices; biases and normalisation weights have none.
        warmup_steps: linear, from 0.
        decay_steps: the step at which the rate would reach 0; 0 means `max_steps`.
        max_steps: optimiser steps.
        batch_size: rows a step.
        label_smoothing: for generating models.
        dropout: as the checkpoint has it when None.
        evaluate_every: steps between evaluations on dev and checkpoints.
        paraphrases: train on the records' paraphrases too.
        seed: of weights made from scratch and of the batches.
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
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate", "max_steps", "batch_size", "evaluate_every")
        check_positive(self, "weight_decay", "warmup_steps", "decay_steps", "label_smoothing", or_zero=True)


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes:
        folder: where the model is.
        dev_accuracy: free answers equal to a gold one, over the dev split.
        train_accuracy: the same over up to 1,000 training rows.
        seconds: in all, over every attempt.
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
    train: Sequence[Record],
    dev: Sequence[Record],
    out: Path,
    *,
    pack_sha256: str = "",
    device: str = "cpu",
    report: Report = lambda _step, _steps, _words: None,
) -> Trained:
    """Fine-tunes a base model, and writes it (safetensors) with a card to `out`.

    An attempt cut off leaves a checkpoint beside `out` and goes on from there, to the same weights.

    Raises:
        BadSetting: the recipe has neither a start nor an architecture.
    """
    settings = validated(Training, dict(recipe.training), f"model {name}: training")
    torch.manual_seed(settings.seed)  # the weights of a new head or a whole new network
    network, tokenizer = _start(name, recipe, task, settings, train)
    nn.Module.to(network, torch.device(device))
    model = FAMILIES[task.family](name, network, tokenizer, Asking.of(task))
    network.requires_grad_(True)
    pairs = [
        (prompt, record.answers[0])
        for record in train
        for prompt in (record.prompt, *(p.text for p in record.paraphrases if settings.paraphrases))
    ]

    optimizer = torch.optim.AdamW(
        _parameter_groups(network, settings.weight_decay), lr=settings.learning_rate
    )
    checkpoint = out.with_name(out.name + ".training.safetensors")
    found = load_checkpoint(checkpoint, network, optimizer)
    counters: dict[str, Any] = found or {"step": 0, "seconds": 0.0, "history": []}
    started = time.monotonic() - counters["seconds"]
    decay_steps = settings.decay_steps or settings.max_steps
    for step in range(counters["step"], settings.max_steps):
        rate = settings.learning_rate * warmup_then_decay(step, settings.warmup_steps, decay_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = _step(model, optimizer, _batch(pairs, settings, step), settings)
        last = step + 1 == settings.max_steps
        if last or (step + 1) % settings.evaluate_every == 0:
            accuracy = accuracy_of(model, dev)
            history = [*counters["history"], (step + 1, loss, accuracy)]
            counters = {"step": step + 1, "seconds": time.monotonic() - started, "history": history}
            save_checkpoint(checkpoint, network, optimizer, counters)
            logger.info("step %d: loss %.4f, dev accuracy %.4f", step + 1, loss, accuracy)
        shown = f"loss {loss:.3f}" + (
            f", dev {history[-1][2]:.1%}" if (history := counters["history"]) else ""
        )
        report(step + 1, settings.max_steps, shown)

    result = Trained(
        folder=out,
        dev_accuracy=accuracy_of(model, dev),
        train_accuracy=accuracy_of(model, train[:1000]),
        seconds=counters["seconds"],
        history=[tuple(row) for row in counters["history"]],
    )
    _write(model, recipe, settings, task, pack_sha256, result)
    checkpoint.unlink(missing_ok=True)
    return result


def accuracy_of(model: AbstractModel, records: Sequence[Record]) -> float:
    """The share of records whose prompt the model answers with a gold answer; NaN of none."""
    if not records:
        return float("nan")
    model.network.eval()
    answers = model.answer([r.prompt for r in records], guesses=[r.answers[0] for r in records])
    hits = sum(
        normalise(answer) in {normalise(gold) for gold in record.answers}
        for answer, record in zip(answers, records, strict=True)
    )
    return hits / len(records)


def _step(
    model: AbstractModel,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[tuple[str, str]],
    settings: Training,
) -> float:
    model.network.train()
    rows = model.rows([prompt for prompt, _ in batch], [answer for _, answer in batch])
    smoothing = settings.label_smoothing if model.family != "classifier" else 0.0
    loss = target_loss(model.logits(rows), rows, smoothing=smoothing).mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def _batch(pairs: Sequence[tuple[str, str]], settings: Training, step: int) -> list[tuple[str, str]]:
    """The step's rows: a pure function of the step, so that a resumed run sees the same ones."""
    a_pass, place = divmod(step * settings.batch_size, len(pairs))
    order = list(range(len(pairs)))
    random.Random(f"{settings.seed}:{a_pass}").shuffle(order)
    chosen = order[place : place + settings.batch_size]
    if len(chosen) < settings.batch_size:  # the pass ends inside this batch
        random.Random(f"{settings.seed}:{a_pass + 1}").shuffle(order)
        chosen += order[: settings.batch_size - len(chosen)]
    # Dropout is drawn from the global generator: seeded by the step, it too survives an interruption.
    torch.manual_seed(settings.seed * 1_000_003 + step)
    return [pairs[index] for index in chosen]


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _start(
    name: str, recipe: ModelRecipe, task: Task, settings: Training, train: Sequence[Record]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The network before its first step, with its tokenizer."""
    if recipe.start is None:
        if not recipe.architecture:
            raise BadSetting(f"model {name}: found neither start nor architecture, wanted one of them")
        return _from_scratch(recipe, task, settings, train)
    config = load_config(recipe.start, revision=recipe.revision)
    options: dict[str, Any] = _dropout(config, settings.dropout)
    if task.family == "classifier":
        options |= label_fields(task.labels)
    network, tokenizer = load_pretrained(recipe.start, task.family, revision=recipe.revision, **options)
    if network.can_generate():  # what the checkpoint forces at decoding is not what our targets teach
        network.generation_config.forced_bos_token_id = None
    return network, tokenizer


def _dropout(config: PreTrainedConfig, rate: float | None) -> dict[str, float]:
    """The fields for it that this architecture's configuration has: BERT, BART, T5 and GPT-2 differ."""
    names = (
        "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "dropout_rate",
        "attn_pdrop", "embd_pdrop", "resid_pdrop",
    )  # fmt: skip
    return {} if rate is None else dict.fromkeys((name for name in names if name in config.to_dict()), rate)


def _from_scratch(
    recipe: ModelRecipe, task: Task, settings: Training, train: Sequence[Record]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A new network of the recipe's architecture, and a byte-level BPE tokenizer of its vocabulary size."""
    fields = dict(recipe.architecture)
    tokenizer = bpe_tokenizer(train, int(fields.pop("vocab_size")))
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
    return LOADERS[task.family].from_config(config), tokenizer


def bpe_tokenizer(records: Sequence[Record], vocab_size: int) -> PreTrainedTokenizerBase:
    """A BART-like byte-level BPE tokenizer learnt from prompts, paraphrases and answers."""
    texts = [t for r in records for t in (r.prompt, *r.answers, *(p.text for p in r.paraphrases))]
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
    """The model folder: weights, tokenizer, and a card for people (README.md) and programs (kebench.json)."""
    folder = result.folder
    model.network.save_pretrained(folder, safe_serialization=True)
    model.tokenizer.save_pretrained(folder)
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
    (folder / "kebench.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    lines = [f"# {model.name}", "", f"Base model for the kebench task `{task.name}`.", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items() if key != "name"]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
