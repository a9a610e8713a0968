"""`kebench.evaluate`: a run from Python, with the same record and the same files as the command."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kebench.edits.editor import AbstractEditor, load_editor
from kebench.errors import BadSetting
from kebench.models.load import Pair, tokenizer_of
from kebench.models.model import AbstractModel
from kebench.models.settings import BatchSize, DType
from kebench.running.preparation import model_width, pack_name
from kebench.running.progress import Progress, Silent
from kebench.running.run import run
from kebench.running.settings import RunSettings, Split
from kebench.scoring.answers import BaseAnswer
from kebench.scoring.protocols import Protocol, Targets
from kebench.scoring.record import RunRecord, editor_folder
from kebench.scoring.rows import ROWS, read_base, read_edits
from kebench.scoring.scorer import per_edit
from kebench.task import load_task

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Evaluation:
    """What came of one editor.

    Attributes:
        record: as the command writes it; `record.scores` are the scores.
        edits: one row an edit: what was asked for, what was said, and what it scored.
    """

    record: RunRecord
    edits: "Dataset"


def evaluate(  # noqa: D417 - RunSettings explains the others
    editor: str | Path | AbstractEditor,
    task: str | Path,
    model: str | Path | AbstractModel | PreTrainedModel | Pair | None = None,
    *,
    pack: str | None = None,
    settings: Mapping[str, Any] | None = None,
    limit: int | None = None,
    precision: float | None = None,
    seed: int = 0,
    protocol: str = "strict",
    targets: Targets = "alternative",
    retain: int | Literal["exact"] | None = None,
    retain_seed: int = 0,
    split: Split = "test",
    regime: str = "single",
    edits: int | None = None,
    batch: int | None = None,
    ask_after: tuple[int, ...] = (),
    output: str | Path | None = None,
    device: str | None = None,
    dtype: DType = "float32",
    batch_size: BatchSize = "auto",
    edit_timeout: float | None = None,
    fail_fast: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Runs one editor on a task, as `kebench run` does.

    A transformers network is checked as one loaded by name is, and gives the same numbers; afterwards it is
    as it was before. It computes in `dtype`: if its weights are of another type, in a copy of that type. So a
    network loaded in float16 or bfloat16 computes in float32, unless `dtype` is `bfloat16`. It is named after
    the place it was loaded from, else after its class; the record's fingerprint tells it from others of that
    name.

    All arguments from `pack` to `fail_fast` are flags of `kebench run`, with the same defaults;
    `kebench run --help` and `RunSettings` explain them.

    Args:
        editor: a name in `baselines/`, a YAML path, `module:Class`, or an editor itself.
        task: a name in `tasks/`, or a YAML path.
        model: one of the task's models, a folder, a Hub id; a loaded `AbstractModel`; a transformers network
            with its tokenizer, as a pair (network, tokenizer); or a network alone, whose tokenizer is then
            looked for where the network was loaded from. By default the task's.
        settings: settings that replace those of the editor's file; for an editor given by its name alone.
        output: the run's folder, kept and resumable; by default a temporary one.
        device: a loaded model or network stays where it is.
        dtype: an `AbstractModel` keeps its own. Trained editors learn in float32, whatever it is.
        batch_size: an `AbstractModel` keeps its own.
        progress: tell on stderr how far it is.

    Raises:
        KebenchError: a name, a setting or a file is wrong; or an editor, a task or a model is none of the
            above.
    """
    task = _name("task", task, "a YAML path")
    given = _given(model)
    if isinstance(editor, AbstractEditor):
        if settings:
            raise BadSetting("settings: found some beside an editor itself, wanted them in the editor")
        name, instance = type(editor).__name__, editor
    else:
        loaded = load_task(task)
        path = _name("editor", editor, "an editor such as Identity()")
        found_pack = pack_name(loaded, pack)
        named = str(model) if isinstance(model, str | Path) else None
        width = partial(model_width, loaded, named, found_pack, given)
        name, instance = load_editor(
            path, task=loaded.name, pack=found_pack, model_width=width, changes=settings,
            changed_by="settings:",
        )  # fmt: skip
    left_alone = nullcontext() if given is None else _left_as_found(given)
    with left_alone, TemporaryDirectory(prefix="kebench-") as temporary:
        asked = RunSettings(
            editors=(name,),
            task=task,
            model=str(model) if isinstance(model, str | Path) else None,
            pack=pack,
            limit=limit,
            precision=precision,
            seed=seed,
            protocol=protocol,
            targets=targets,
            retain=retain,
            retain_seed=retain_seed,
            split=split,
            regime=regime,
            edits=edits,
            batch=batch,
            ask_after=ask_after,
            output=str(output if output is not None else temporary),
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            edit_timeout=edit_timeout,
            fail_fast=fail_fast,
        )
        folder, (record,) = run(
            asked,
            editors={name: instance},
            model=given,
            progress=Progress() if progress else Silent(),
        )
        return Evaluation(record, _rows(folder, name, record.scores.protocol, read_base(folder)))


def _name(kind: str, found: object, wanted: str) -> str:
    if not isinstance(found, str | Path):
        raise BadSetting(f"{kind}: found {_what(found)}, wanted a name or {wanted}")
    return str(found)


def _what(found: object) -> str:
    """What kind of thing it is, in words."""
    return f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"


def _given(model: object) -> AbstractModel | Pair | None:
    """The model that was handed over; None where it is to be found by its name."""
    match model:
        case None | str() | Path():
            return None
        case AbstractModel():
            return model
        case PreTrainedModel():
            return model, tokenizer_of(model)
        case (PreTrainedModel() as network, PreTrainedTokenizerBase() as tokenizer):
            return network, tokenizer
    found = f"({', '.join(map(_what, model))})" if isinstance(model, tuple | list) else _what(model)
    raise BadSetting(
        f"model: found {found}, wanted a name, a kebench or transformers model,"
        " or a pair (network, tokenizer)"
    )


@contextmanager
def _left_as_found(model: AbstractModel | Pair) -> Iterator[None]:
    """Gives a network back in its modes, with its generation configuration and what it asks gradients of."""
    network = model.network if isinstance(model, AbstractModel) else model[0]
    modes = [(module, module.training) for module in network.modules()]
    gradients = [(weight, weight.requires_grad) for weight in network.parameters()]
    generation = network.generation_config if network.can_generate() else None
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, asks in gradients:
            weight.requires_grad_(asks)
        if generation is not None:
            network.generation_config = generation


def _rows(folder: Path, name: str, protocol: Protocol, base: list[BaseAnswer]) -> "Dataset":
    from datasets import Dataset

    answers = {edit.id: edit for edit in read_edits(editor_folder(folder, name) / ROWS)}
    return Dataset.from_list(
        [
            {
                **scores.row(),
                "prompt": answers[scores.id].prompt,
                "prediction": answers[scores.id].prediction,
                "target": answers[scores.id].target,
                "answer": answers[scores.id].answer,
            }
            for scores in per_edit(list(answers.values()), base, protocol)
        ]
    )
