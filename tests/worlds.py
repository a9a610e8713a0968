"""A toy world on disk: task file, pack and saved model, laid out in a home of their own.

Invented people in invented cities. Prompts are cut short before their last words, so that a paraphrase which
begins as its prompt does is, to the model, the same question: random models agree on no other.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from kebench.files.card import write_card
from kebench.files.shipped import MODEL_CARD
from kebench.models import load
from kebench.models.model import PromptFormat
from kebench.packs.pack import Origin, Pack, read_pack, write_pack
from kebench.packs.record import Paraphrase, Record
from kebench.running.preparation import trained_model_folder
from kebench.running.settings import RunSettings
from kebench.task import load_task
from kebench.training.base import training_key

TEST, TRAIN = 18, 2  # of 24 people: two whole groups of edits and a broken one; the rest are dev
QUIET = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY")
PROMPT_TOKENS, ANSWER_TOKENS = 9, 20
SPLIT = {"train": 0.1, "dev": 0.15, "test": 0.75}


@dataclass(frozen=True)
class World:
    """Where everything lies.

    Attributes:
        kind: of the model, in `tiny.KINDS`.
        home: what `KEBENCH_HOME` must be.
        task: the task's file.
    """

    kind: str
    home: Path
    task: Path

    @property
    def pack(self) -> Pack:
        return read_pack(self.home / "packs" / "toy--toy")

    @property
    def model(self) -> Path:
        folder = trained_model_folder(load_task(str(self.task)), "tiny", self.pack)
        return self.home / "models" / folder.name

    def settings(self, output: Path, *editors: str, **changes: Any) -> RunSettings:
        return RunSettings(editors=editors, task=str(self.task), output=str(output), **changes)

    def environment(self, *extra: Path) -> dict[str, str]:
        """For a subprocess; modules in `extra` and the doubles can be imported there."""
        mine = [str(path) for path in (*extra, Path(__file__).parent)]
        paths = os.pathsep.join([*mine, *filter(None, [os.environ.get("PYTHONPATH")])])
        # The command itself must be quiet, as it is for users, who set none of these.
        others = {name: value for name, value in os.environ.items() if name not in QUIET}
        return {**others, "KEBENCH_HOME": str(self.home), "PYTHONPATH": paths}


def make(kind: str, folder: Path, *, paraphrases: bool = True) -> World:
    """Builds a world in an empty folder."""
    task = folder / "toy.yaml"
    task.write_text(task_text(kind), encoding="utf-8")
    return with_records(World(kind, folder / "home", task), records(kind, paraphrases=paraphrases))


def with_records(world: World, rows: Sequence[Record], *, test: int = TEST) -> World:
    """The world with these records for its pack, the first of them its test split, and a saved model."""
    pack, kind = world.home / "packs" / "toy--toy", world.kind
    if pack.is_dir():
        shutil.rmtree(pack)
    toy_pack(pack, rows, test)
    tiny.save(kind, world.model)
    task = load_task(str(world.task))
    key = training_key(task.models["tiny"], task, world.pack.sha256)
    write_card(world.model, MODEL_CARD, "A toy.", {"name": "tiny", "task": task.name}, made_of=key)
    return world


def load_once(monkeypatch: pytest.MonkeyPatch, worlds: Collection[World]) -> None:
    """Lets the model of each world be read once: a run gets a copy, which takes a tenth of the time."""
    read: dict[tuple[object, ...], load.Pair] = {}
    plain = load.load_pretrained

    def copied(name: str, *arguments: Any, **options: Any) -> load.Pair:
        if not any(Path(name).is_relative_to(world.home) for world in worlds):
            return plain(name, *arguments, **options)
        key = (name, arguments, *sorted(options.items()))
        if key not in read:
            read[key] = plain(name, *arguments, **options)
        network, tokenizer = read[key]
        return copy.deepcopy(network), tokenizer

    monkeypatch.setattr(load, "load_pretrained", copied)


def records(kind: str, *, paraphrases: bool = True) -> list[Record]:
    """People: one question or claim each, with a paraphrase that begins as it does and another.

    A generating model is right about every second one: what it says there is what the pack calls gold.
    """
    found: list[Record] = []
    prompt_format = PromptFormat(
        max_prompt_tokens=PROMPT_TOKENS, max_answer_tokens=ANSWER_TOKENS, labels=tiny.task(kind).labels
    )
    model = tiny.model(kind, prompt_format=prompt_format)

    def said(prompt: str) -> str:
        return model.answer([prompt])[0]

    for old in tiny.records(kind):
        person = old.fact
        if kind == "bert":
            prompt, gold, others = old.prompt, old.answers, tuple(p.text for p in old.paraphrases)
        else:
            prompt = f"{person} was born in which city?"
            gold = old.answers if len(found) % 2 else (said(prompt) or "nothing",)
            others = (f"{person} was born in the city of?", f"where was {person} born?")
        texts = tuple(Paraphrase(text, "toy") for text in others) if paraphrases else ()
        found.append(Record(old.id, person, prompt, gold, texts, subject=person))
    return found


def toy_pack(folder: Path, rows: Sequence[Record], test: int = TEST) -> Pack:
    """A pack of records, split by their order."""
    by_id = sorted(rows, key=lambda record: record.id)
    rest = by_id[test:]
    # So chosen that both halves of dev hold two facts, and the second an edit (`preparation.training_set`).
    train = rest[1 : 1 + TRAIN]
    dev = [record for record in rest if record not in train]
    splits: Mapping[str, list[Record]] = {"test": by_id[:test], "train": train, "dev": dev}
    return write_pack(
        folder, splits, name="toy", licence="CC0", origin=(Origin("toy", "toy.jsonl", len(rows)),),
        split=SPLIT, seed=0,
    )  # fmt: skip


def task_fields(kind: str, **changes: Any) -> dict[str, Any]:
    """The toy task as its file holds it."""
    family = tiny.FAMILY[kind]
    return {
        "name": "toy",
        "version": 1,
        "family": family,
        "description": "Where people were born.",
        "citation": "none",
        **({"labels": list(tiny.LABELS)} if family == "classifier" else {}),
        "max_prompt_tokens": 24 if family == "classifier" else PROMPT_TOKENS,
        "max_answer_tokens": ANSWER_TOKENS,
        "retain_size": 8,
        "edits": TEST,
        "default_pack": "toy",
        "packs": {
            "toy": {"licence": "CC0", "sources": [{"format": "fever", "path": "toy.jsonl"}], "split": SPLIT}
        },
        "default_model": "tiny",
        "models": {"tiny": {"start": "tiny"}},
        **changes,
    }


def task_text(kind: str, **changes: Any) -> str:
    """The toy task as YAML."""
    return yaml.safe_dump(task_fields(kind, **changes), sort_keys=False)
