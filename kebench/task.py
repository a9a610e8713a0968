"""A task: which records, asked how, of which model. One YAML file in `tasks/` each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from kebench.errors import BadFile, NotFound, did_you_mean
from kebench.files.outside import TASKS, plugin_file, plugins
from kebench.files.yaml import FORBID_EXTRA, folder_of, read_yaml, validated
from kebench.scoring.protocols import STRATA

AnswersAre = Literal["truth", "counterfactual"]
"""What a source's answers are, where its rows do not say: true, or false ones to edit in."""

Family = Literal["classifier", "seq2seq", "causal"]
DEFAULT_SPLIT: Mapping[str, float] = {"train": 0.75, "dev": 0.05, "test": 0.2}


@dataclass(frozen=True)
class PackSource:
    """One file, or one Hub data set, that a pack is built from.

    Attributes:
        format: the importer: a module of `kebench.packs.formats`, the name under which an installed package
            announces one, or `module:function`.
        path: below the folder given to `kebench data build`, or a Hub id `owner/name`.
        sha256: of the file; a different file is refused. Hub sources pin `revision` instead.
        configuration: the Hub data set's configuration.
        revision: the Hub commit.
        answers_are: `truth` or `counterfactual`, for a format whose rows need not say.
        split: the split that all records of this source go to, as they are published: nothing is merged, and
            nothing split anew. Either every source of a pack has one, or none has.
    """

    __pydantic_config__: ClassVar[ConfigDict] = FORBID_EXTRA

    format: str
    path: str
    sha256: str | None = None
    configuration: str | None = None
    revision: str | None = None
    answers_are: AnswersAre | None = None
    split: Literal["train", "dev", "test"] | None = None


@dataclass(frozen=True)
class PackRecipe:
    """How a pack is built.

    Attributes:
        sources: what it is built from.
        licence: of its records.
        split: how its facts are split, unless its sources keep their own splits.
        shipped: where below `tasks/` it lies, built, for a pack that comes with kebench; its sources' paths
            are below `tasks/` too.
        default_model: the model of a run on this pack that names none; the task's where it is None.
    """

    __pydantic_config__: ClassVar[ConfigDict] = FORBID_EXTRA

    sources: tuple[PackSource, ...]
    licence: str
    split: Mapping[str, float] = field(default_factory=lambda: DEFAULT_SPLIT)
    shipped: str | None = None
    default_model: str | None = None

    @property
    def keeps_splits(self) -> bool:
        """Whether the sources keep their own splits."""
        return any(source.split is not None for source in self.sources)


@dataclass(frozen=True)
class ModelRecipe:
    """How a base model is made: what it starts from and how it is fine-tuned on the task.

    Attributes:
        start: a Hub id or local folder to fine-tune; or None: from scratch, with `architecture`.
        revision: the Hub commit of `start`.
        architecture: fields of a transformers configuration, `model_type` among them; `vocab_size` is
            the size of the tokenizer trained on the pack.
        training: fields of `kebench.training.base.Training` that differ from its defaults.
        shipped: where below `tasks/` it lies, trained, for a model that comes with kebench.
    """

    __pydantic_config__: ClassVar[ConfigDict] = FORBID_EXTRA

    start: str | None = None
    revision: str | None = None
    architecture: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    shipped: str | None = None


@dataclass(frozen=True)
class Task:
    """What is edited and how it is asked. `tasks/README.md` explains each field to its author.

    Attributes:
        name: the file's name without `.yaml`.
        version: raised whenever a number could change; versions never share a table.
        family: the model family that answers this task.
        description: one line.
        citation: BibTeX keys or a reference in words.
        labels: a classifier's answers, in the order of its logits; empty for generating families.
        template: how a prompt is put to the model; `{prompt}` is the record's.
        max_answer_tokens: an answer's longest length, end of sequence included.
        max_prompt_tokens: longer prompts are cut, as the paper does at 32.
        retain_size: test questions drawn for each edit.
        edits: how many edits a run makes that sets no limit.
        packs: name → how it is built.
        default_pack: the pack of a run that names none.
        models: name → how it is trained.
        default_model: the model of a run that names none: one of those, or a Hub id.
        shipped_editors: editors that come with kebench, trained for the default pack and model.
    """

    __pydantic_config__: ClassVar[ConfigDict] = FORBID_EXTRA

    name: str
    version: int
    family: Family
    description: str
    citation: str
    packs: Mapping[str, PackRecipe]
    default_pack: str
    models: Mapping[str, ModelRecipe]
    default_model: str
    labels: tuple[str, ...] = ()
    template: str = "{prompt}"
    max_answer_tokens: int = 32
    max_prompt_tokens: int = 32
    retain_size: int = 200
    edits: int = 200
    shipped_editors: tuple[str, ...] = ()

    def model_for(self, pack: str) -> str:
        """The model of a run that names none."""
        recipe = self.packs.get(pack)
        return (recipe.default_model if recipe else None) or self.default_model


def task_names() -> tuple[str, ...]:
    """The names of the tasks in `tasks/` and of those that installed packages announce; none is read."""
    ours = {path.stem for path in folder_of("kebench.tasks").glob("*.yaml")}
    return tuple(sorted(ours | {*plugins(TASKS)}))


def load_task(name: str) -> Task:
    """Reads a task by its name in `tasks/`, by that of a plug-in, or by the path of a YAML file.

    Raises:
        NotFound: there is no such task; the nearest name is offered.
        BadFile: the file holds a wrong field, named with its place.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder_of("kebench.tasks") / f"{name}.yaml"
    if not path.is_file() and name in (announced := plugins(TASKS)):
        path = plugin_file(announced[name])
    if not path.is_file():
        raise NotFound("task", name, task_names())
    task = validated(Task, read_yaml(path), path)
    _check(task, path)
    return task


def _check(task: Task, path: Path) -> None:
    """Makes sure of what the types do not say."""
    try:
        has_prompt = "\0" in task.template.format(prompt="\0")
    except (ValueError, LookupError, AttributeError):
        has_prompt = False
    if not has_prompt:
        raise BadFile(path, f"template: found '{task.template}', wanted {{prompt}} and no other field in it")
    defaults = [
        ("default_pack", task.default_pack, task.packs),
        ("default_model", task.default_model, task.models),
        *((f"packs.{name}.default_model", task.model_for(name), task.models) for name in task.packs),
    ]
    for field_name, found, known in defaults:
        hub_model = "model" in field_name and "/" in found  # used as it is
        if found not in known and not hub_model:
            raise BadFile(path, f"{field_name}: found '{found}'{did_you_mean(found, known)}")
    if (task.family == "classifier") != bool(task.labels):
        wanted = "labels" if task.family == "classifier" else "none: only classifiers answer with them"
        raise BadFile(path, f"labels: found {list(task.labels)}, wanted {wanted}")
    for field_name, least in (
        ("max_answer_tokens", 1), ("max_prompt_tokens", 1), ("retain_size", STRATA), ("edits", 0),
    ):  # fmt: skip
        if getattr(task, field_name) < least:
            raise BadFile(path, f"{field_name}: found {getattr(task, field_name)}, wanted {least} or more")
