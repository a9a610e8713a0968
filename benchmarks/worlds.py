"""The models and data of the benchmarks: a base model, a test set and edits, as in a run.

`base_size` makes models of the paper's size with random weights. `mini` uses the model, the pack and the
trained editor that are shipped with kebench.
"""

import os
import random
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from kebench.baselines.knowledge_editor import KnowledgeEditor
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from benchmarks.settings import LAYERS, Settings
from kebench.edits.edit import Edit
from kebench.edits.editor import Carried, State, load_editor
from kebench.models.changes import Changes
from kebench.models.load import FAMILIES, LOADERS, label_fields
from kebench.models.model import AbstractModel, PromptFormat
from kebench.packs.formats import read_source
from kebench.packs.pack import Pack, write_pack
from kebench.packs.record import Record
from kebench.running.plan import Plan
from kebench.running.preparation import find_model, find_pack, make_inputs, prepare_editor
from kebench.running.progress import Progress
from kebench.running.settings import RunSettings
from kebench.scoring.protocols import protocol
from kebench.task import AnswersAre, Task, load_task
from kebench.training.base import bpe_tokenizer

SHARED = Path(os.environ.get("KEBENCH_SHARED") or Path(__file__).parents[2] / "shared")
REAL: dict[str, tuple[str, AnswersAre | None, tuple[str, ...]]] = {
    "fever": ("fever", None, ("data/fever/paper_dev.jsonl", "data/fever/paper_test.jsonl")),
    "zsre": ("mend_zsre", "truth", ("data/zsre/zsre_mend_train_10000.json",)),
}
"""The task → the format of its records, what their answers are (`PackSource.answers_are`), and their files.

If the files do not exist, the pack `mini` is used.
"""

ANSWER, OTHER = "New York City", "Buenos Aires"
ANSWER_TOKENS = 8  # enough for answers of zsRE, which are short
EDITS_AT_ONCE = 16


@dataclass(frozen=True)
class World:
    """A plan and an editor.

    Attributes:
        name: the name of the base model in the table.
        plan: the plan of a run in which all test rows are answered after each edit (`exact`).
        editor: the KnowledgeEditor.
        state: the weights of its hypernetwork.
    """

    name: str
    plan: Plan
    editor: KnowledgeEditor
    state: State

    @property
    def model(self) -> AbstractModel:
        """The base model."""
        return self.plan.inputs.model

    @property
    def prompts(self) -> list[str]:
        """The prompts of the test set."""
        return [row.prompt for row in self.plan.base]

    @property
    def answers(self) -> list[str]:
        """The base model's answers to the prompts."""
        return [row.answer for row in self.plan.base]

    def edits(self, count: int) -> list[Edit]:
        """Returns `count` edits of the plan; if it has fewer, they are repeated."""
        return [self.plan.cases[index % len(self.plan.cases)].edit for index in range(count)]

    def updates(self, edits: list[Edit], model: AbstractModel) -> list[Changes]:
        """Returns the editor's update for each edit. They are made in small groups, as in a run."""
        found: list[Changes] = []
        for start in range(0, len(edits), EDITS_AT_ONCE):
            batches = [(edit,) for edit in edits[start : start + EDITS_AT_ONCE]]
            found += self.editor.update(self.state, model, batches, [Carried()] * len(batches))[0]
        return found


def cut(model: AbstractModel, tokens: int) -> AbstractModel:
    """Returns a model with the same network in which prompts are truncated to `tokens` tokens."""
    prompt_format = replace(model.prompt_format, max_prompt_tokens=tokens)
    return type(model)(model.name, model.network, model.tokenizer, prompt_format)


@cache
def mini(task_name: str, settings: Settings) -> World:
    """Returns the pack, model and trained KnowledgeEditor that are shipped with kebench."""
    task = load_task(task_name)
    pack = find_pack(task, None)
    model = find_model(task, None, pack, Progress(), settings.device)
    plan = _plan(task, pack, model)
    name, editor = load_editor("knowledge_editor")
    assert isinstance(editor, KnowledgeEditor)
    state = prepare_editor(name, editor, plan.inputs, Progress()).state
    # Only after the state is found: a model of another type is another base model, without a trained editor.
    nn.Module.to(model.network, settings.dtype)
    return World(model.name.rpartition("/")[2], plan, editor, state)


@cache
def base_size(task_name: str, rows: int, settings: Settings) -> World:
    """Returns BERT-base or BART-base with random weights, `rows` test rows, and a new hypernetwork.

    Prompts are truncated at 32 tokens, as in the paper. Edits change few answers, because the updates of an
    untrained hypernetwork are small.
    """
    task = replace(load_task(task_name), max_prompt_tokens=32, max_answer_tokens=ANSWER_TOKENS)
    records = _records(task, rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _random_model(task, [record.prompt for record in records], settings.layers)
    nn.Module.to(model.network, settings.place, settings.dtype)
    with tempfile.TemporaryDirectory() as folder:
        place, split = Path(folder) / "pack", {"test": 1.0}
        pack = write_pack(
            place, {"test": records}, name="benchmark", licence="none", origin=[], split=split, seed=0
        )
    plan = _plan(task, pack, model)
    editor = KnowledgeEditor()
    return World(model.name, plan, editor, editor.hypernetwork(model).state_dict())


def _plan(task: Task, pack: Pack, model: AbstractModel) -> Plan:
    rules = protocol("strict", labels=task.family == "classifier")
    inputs = make_inputs(task, pack, model, rules, "alternative", 0, Progress())
    return Plan.of(inputs, RunSettings((), task.name, limit=0, retain="exact"))


def _records(task: Task, count: int) -> list[Record]:
    """Returns records of real sentences, each with its own fact, and `OTHER` as the target of edits."""
    answers, others = (task.labels[:1], ()) if task.labels else ((ANSWER,), (OTHER,))
    chosen = random.Random(0).sample(sorted(set(_sentences(task))), count)
    return [
        Record(f"row-{index}", f"fact-{index}", prompt, answers, alternatives=others)
        for index, prompt in enumerate(chosen)
    ]


def _sentences(task: Task) -> Iterable[str]:
    format_, answers_are, files = REAL[task.name]
    if all((SHARED / file).is_file() for file in files):
        readings = (read_source(format_, SHARED / file, answers_are=answers_are) for file in files)
        return (entry.record.prompt for reading in readings for entry in reading.entries)
    return (record.prompt for part in find_pack(task, None).splits.values() for record in part)


# Networks with random weights ------------------------------------------------------------------------


def _architecture(task: Task, layers: int) -> dict[str, Any]:
    """Returns the configuration of BERT-base or BART-base, with another number of layers."""
    if task.family == "classifier":
        return {"model_type": "bert", "vocab_size": 30522, "num_hidden_layers": layers}
    half = layers // 2
    return {
        "model_type": "bart", "vocab_size": 50265, "d_model": 768, "forced_eos_token_id": None,
        "encoder_layers": half, "encoder_attention_heads": 12, "encoder_ffn_dim": 3072,
        "decoder_layers": half, "decoder_attention_heads": 12, "decoder_ffn_dim": 3072,
    }  # fmt: skip


def _random_model(task: Task, prompts: list[str], layers: int) -> AbstractModel:
    """Returns a network of base size, and a tokenizer trained on the sentences of the task."""
    architecture = _architecture(task, layers)
    tokenizer = bpe_tokenizer([*_sentences(task), *[ANSWER, OTHER] * 50], architecture["vocab_size"])
    labels = label_fields(task.labels) if task.labels else {}
    config = AutoConfig.for_model(**architecture, **labels, pad_token_id=tokenizer.pad_token_id)
    network: PreTrainedModel = LOADERS[task.family].from_config(config)
    name = "BERT-base" if task.family == "classifier" else "BART-base"
    name += "" if layers == LAYERS else f" cut to {layers} layers"
    model = FAMILIES[task.family](name, network, tokenizer, PromptFormat.of(task))
    with torch.no_grad():
        if task.family == "classifier":
            _balance(model, prompts[:64])
        else:
            _teach(model, prompts[:8])
    return model


def _balance(model: AbstractModel, prompts: list[str]) -> None:
    """Moves the threshold of a classifier so that half of the prompts get each label."""
    rows = model.rows(prompts, [model.prompt_format.labels[0]] * len(prompts))
    logits = model.logits(rows)
    bias = model.network.get_submodule("classifier").bias
    assert isinstance(bias, nn.Parameter)
    bias[1] -= (logits[:, 1] - logits[:, 0]).median()


def _teach(model: AbstractModel, prompts: list[str]) -> None:
    """Makes `ANSWER` the answer to all prompts, so that decoding is as short as with a trained model.

    The position embeddings of the decoder are enlarged, so that its states depend mainly on the position.
    Then the embedding of each token of the answer is set to the direction of the state at its position.
    """
    answers = [ANSWER] * len(prompts)
    rows = model.rows(prompts, answers)
    tokens = rows.labels[rows.row == 0]
    decoder = model.network.get_decoder()
    decoder.embed_positions.weight *= 50
    embeddings = model.network.get_input_embeddings().weight
    for _ in range(3):  # repeated, because the states also depend on the embeddings
        states = model.network.model(**rows.inputs, use_cache=False).last_hidden_state.mean(0)
        apart = states - states.mean(0)
        embeddings[tokens] = apart / apart.norm(dim=-1, keepdim=True)
    if not all(model.says(prompts, answers)):
        raise RuntimeError(f"{model.name} does not answer {ANSWER}")
