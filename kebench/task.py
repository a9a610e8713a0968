"""A task says which records are edited, how prompts are formatted, and which base models are used.

Each task is one YAML file in `tasks/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from kebench.errors import BadFile, NotFound, did_you_mean, shown
from kebench.files.names import unsafe
from kebench.files.outside import TASKS, plugin_file, plugins
from kebench.files.yaml import FORBID_EXTRA, folder_of, read_yaml, validated
from kebench.scoring.protocols import STRATA

AnswersAre = Literal["truth", "counterfactual"]
"""Whether the answers of a source are true, or are the false targets of edits; for rows that do not say."""

ParaphrasesAsked = Literal["agreeing", "all"]
"""Which paraphrases of a record are in P^x.

`agreeing`: those that the base model answers as it answers x, as in De Cao et al. (2021); a record without
one is not edited. `all`: every one, and every record that has a target is edited.
"""

Family = Literal["classifier", "seq2seq", "causal"]
DEFAULT_SPLIT: Mapping[str, float] = {"train": 0.75, "dev": 0.05, "test": 0.2}


@dataclass(frozen=True)
class PackSource:
    """One file, or one data set on the Hugging Face Hub, that a pack is built from.

    Attributes:
        format: the importer: the name of a module of `kebench.packs.formats`, the name under which an
            installed package declares one, or `module:function`.
        path: the file's path, relative to the folder given to `kebench data build`; or a Hub id `owner/name`.
        sha256: the SHA-256 hash of the file; a file with another hash is refused. A Hub data set has a
            `revision` instead.
        configuration: the configuration of the Hub data set.
        revision: the commit of the Hub data set.
        answers_are: `truth` or `counterfactual`, for a format whose rows do not always say which.
        split: the split to which all records of this source go, as published: nothing is merged, and no
            record moves to another split. `rows` if each row names its split. Either all sources of a pack
            have a split, or none has.
    """

    __pydantic_config__: ClassVar[ConfigDict] = FORBID_EXTRA

    format: str
    path: str
    sha256: str | None = None
    configuration: str | None = None
    revision: str | None = None
    answers_are: AnswersAre | None = None
    split: Literal["train", "dev", "test", "rows"] | None = None


@dataclass(frozen=True)
class PackRecipe:
    """How a pack is built.

    Attributes:
        sources: the files and data sets that it is built from.
        licence: the licence of its records.
        split: the fraction of records in each split; not used if the sources keep their own splits.
        shipped: the folder, relative to `tasks/`, of a pack that is shipped with kebench. The paths of its
            sources are relative to `tasks/` too.
        default_model: the base model used with this pack if a run names none; if None, the task's default.
    """

    __pydantic_config__: ClassVar[ConfigDict] = FORBID_EXTRA

    sources: tuple[PackSource, ...]
    licence: str
    split: Mapping[str, float] = field(default_factory=lambda: DEFAULT_SPLIT)
    shipped: str | None = None
    default_model: str | None = None

    @property
    def keeps_splits(self) -> bool:
        """True if the sources keep the splits in which they are published."""
        return any(source.split is not None for source in self.sources)


@dataclass(frozen=True)
class ModelRecipe:
    """How a base model is made: from which checkpoint, and how it is fine-tuned on the task.

    Attributes:
        start: the Hub id or local folder of the checkpoint to fine-tune. If None, a network with the given
            `architecture` is trained from scratch.
        revision: the Hub commit of `start`.
        architecture: fields of a transformers configuration, including `model_type`. `vocab_size` is the
            size of the tokenizer, which is trained on the pack.
        training: fields of `kebench.training.base.Training` that differ from its defaults.
        shipped: the folder, relative to `tasks/`, of a trained model that is shipped with kebench.
    """

    __pydantic_config__: ClassVar[ConfigDict] = FORBID_EXTRA

    start: str | None = None
    revision: str | None = None
    architecture: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    shipped: str | None = None


@dataclass(frozen=True)
class Task:
    """The facts that are edited and the way models are asked about them.

    `tasks/README.md` explains each field to the author of a task.

    Attributes:
        name: the name of the file without `.yaml`.
        version: a number that is raised whenever a score could change; results of two versions never share a
            table.
        family: the model family that answers this task.
        description: the task in one line.
        citation: BibTeX keys or a reference in words.
        labels: the answers of a classifier, in the order of its logits; empty for the other families.
        template: the text given to the model; `{prompt}` in it is replaced by the record's prompt.
        max_answer_tokens: the largest number of tokens in an answer, including the end of sequence.
        max_prompt_tokens: longer prompts are truncated; the paper truncates at 32.
        retain_size: the number of test questions drawn for the retain set of each edit.
        edits: the number of edits in a run that sets no limit.
        paraphrases: which paraphrases of a record are asked: `agreeing` or `all`.
        packs: the name of each pack → how it is built.
        default_pack: the pack used if a run names none.
        models: the name of each base model → how it is made.
        default_model: the base model used if a run names none: one of `models`, or a Hub id.
        shipped_editors: the names of editors whose trained states, for the default pack and model, are
            shipped with kebench.
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
    paraphrases: ParaphrasesAsked = "agreeing"
    shipped_editors: tuple[str, ...] = ()

    def model_for(self, pack: str) -> str:
        """Returns the base model used with a pack if a run names none."""
        recipe = self.packs.get(pack)
        return (recipe.default_model if recipe else None) or self.default_model


def task_names() -> tuple[str, ...]:
    """Returns the names of the tasks in `tasks/` and of plug-ins, without reading the files."""
    ours = {path.stem for path in folder_of("kebench.tasks").glob("*.yaml")}
    return tuple(sorted(ours | {*plugins(TASKS)}))


def load_task(name: str) -> Task:
    """Reads a task, given its name in `tasks/`, that of a plug-in, or the path of a YAML file.

    Raises:
        NotFound: there is no such task. The message suggests the most similar name.
        BadFile: a field of the file is wrong. The message says which one.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder_of("kebench.tasks") / f"{name}.yaml"
    if not path.is_file() and name in (announced := plugins(TASKS)):
        path = plugin_file(announced[name])
    if not path.is_file():
        raise NotFound("task", name, task_names())
    task = validated(Task, read_yaml(path), path)
    _check(task, path)
    return task


def _is_template(text: str) -> bool:
    """Returns True if `{prompt}` is in the text, as it stands here, and no other field."""
    try:
        fields = [part[1:] for part in Formatter().parse(text) if part[1] is not None]
    except ValueError:  # a brace without its partner
        return False
    return bool(fields) and all(each == ("prompt", "", None) for each in fields)


def _check(task: Task, path: Path) -> None:
    """Checks what the types of the fields cannot express."""
    names = [("name", task.name, False)]
    names += [("packs", name, False) for name in task.packs]
    names += [("models", name, True) for name in task.models]
    for field_name, found, parts in names:
        if wanted := unsafe(found, parts=parts):
            raise BadFile(path, f"{field_name}: found {shown(found)}, wanted {wanted}")
    shipped = [each.shipped for each in task.packs.values()] + [each.shipped for each in task.models.values()]
    for folder in shipped:
        if folder is not None and unsafe(folder, parts=True):
            raise BadFile(path, f"shipped: found {shown(folder)}, wanted a folder below tasks/")
    if not _is_template(task.template):
        problem = f"template: found {shown(task.template)}, wanted {{prompt}} and no other field in it"
        raise BadFile(path, problem)
    defaults = [
        ("default_pack", task.default_pack, task.packs),
        ("default_model", task.default_model, task.models),
        *((f"packs.{name}.default_model", task.model_for(name), task.models) for name in task.packs),
    ]
    for field_name, found, known in defaults:
        hub_model = "model" in field_name and "/" in found  # a Hub id needs no recipe
        if found not in known and not hub_model:
            raise BadFile(path, f"{field_name}: found '{found}'{did_you_mean(found, known)}")
    if (task.family == "classifier") != bool(task.labels):
        wanted = "labels" if task.family == "classifier" else "none: only classifiers have labels"
        raise BadFile(path, f"labels: found {list(task.labels)}, wanted {wanted}")
    for field_name, least in (
        ("max_answer_tokens", 1), ("max_prompt_tokens", 1), ("retain_size", STRATA), ("edits", 0),
    ):  # fmt: skip
        if getattr(task, field_name) < least:
            raise BadFile(path, f"{field_name}: found {getattr(task, field_name)}, wanted {least} or more")
