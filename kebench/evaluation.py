"""`kebench.evaluate`: a run from Python, with the same record and the same files as the command."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from kebench.answers import BaseAnswer
from kebench.editor import AbstractEditor, load_editor
from kebench.models import AbstractModel
from kebench.preparation import pack_name
from kebench.progress import Progress, Silent
from kebench.protocols import Protocol, Targets
from kebench.record import RunRecord, editor_folder
from kebench.run import run
from kebench.run_folder import read_base, read_edits
from kebench.run_settings import BatchSize, DType, RunSettings, Split
from kebench.scorer import per_edit
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


def evaluate(
    editor: str | AbstractEditor,
    task: str,
    model: str | AbstractModel | None = None,
    *,
    pack: str | None = None,
    limit: int | None = None,
    precision: float | None = None,
    seed: int = 0,
    protocol: str = "strict",
    targets: Targets = "alternative",
    retain: int | Literal["exact"] | None = None,
    retain_seed: int = 0,
    split: Split = "test",
    output: str | Path | None = None,
    device: str | None = None,
    dtype: DType = "float32",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> Evaluation:
    """Runs one editor on a task, as `kebench run` does.

    Args:
        editor: a name in `baselines/`, a YAML path, `module:Class`, or an editor itself.
        task: a name in `tasks/`, or a YAML path.
        model: one of the task's models, a folder, a Hub id, or a loaded model; by default the task's.
        pack: one of the task's packs or a folder; by default the task's.
        limit: how many edits; by default the task's number; 0 for all there are.
        precision: edit until the 95 % interval of retain accuracy is this half-width or less, in percentage
            points; `limit`, by default all there are, is then the most edits it may take.
        seed: of the choice of edits, and of the intervals.
        protocol: `strict` or `decao2021`.
        targets: `alternative` or `gold`.
        retain: how many test questions each edit is asked, or `exact`; by default the task's number.
        retain_seed: of the draw of those questions.
        split: `test`, or `dev` to choose settings with: the half of it that editors choose their checkpoints
            with, but learn nothing from; held-out wordings and relations left out.
        output: the run's folder, kept and resumable; by default a temporary one.
        device: where to compute; by default `cuda` if there is one. A loaded model stays where it is.
        dtype: `float32`, `tf32` (with `cuda`) or `bfloat16`. A loaded model keeps its own.
        batch_size: rows a forward pass, or `auto`. A loaded model keeps its own.
        progress: tell on stderr how far it is.

    Raises:
        KebenchError: a name, a setting or a file is wrong.
    """
    if isinstance(editor, AbstractEditor):
        name, instance = type(editor).__name__, editor
    else:
        loaded = load_task(task)
        name, instance = load_editor(editor, task=loaded.name, pack=pack_name(loaded, pack))
    with TemporaryDirectory(prefix="kebench-") as temporary:
        settings = RunSettings(
            editors=(name,),
            task=task,
            model=model if isinstance(model, str) else None,
            pack=pack,
            limit=limit,
            precision=precision,
            seed=seed,
            protocol=protocol,
            targets=targets,
            retain=retain,
            retain_seed=retain_seed,
            split=split,
            output=str(output if output is not None else temporary),
            device=device,
            dtype=dtype,
            batch_size=batch_size,
        )
        folder, (record,) = run(
            settings,
            editors={name: instance},
            model=model if isinstance(model, AbstractModel) else None,
            progress=Progress() if progress else Silent(),
        )
        return Evaluation(record, _rows(folder, name, record.scores.protocol, read_base(folder)))


def _rows(folder: Path, name: str, protocol: Protocol, base: list[BaseAnswer]) -> "Dataset":
    from datasets import Dataset

    answers = {edit.id: edit for edit in read_edits(editor_folder(folder, name) / "edits.jsonl")}
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
