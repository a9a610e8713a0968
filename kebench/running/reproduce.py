"""Makes again what is shipped with kebench, for `kebench train --task TASK --reproduce mini`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kebench.edits.editor import AbstractTrainedEditor, load_editor
from kebench.errors import NotFound
from kebench.files.shipped import MODEL_CARD, shipped_root
from kebench.models.load import load_model
from kebench.packs.build import build_pack
from kebench.packs.pack import LOCK, Pack, read_pack
from kebench.running.preparation import find_model, learn_state, make_inputs, model_width, train_model
from kebench.running.progress import Progress
from kebench.scoring.protocols import protocol
from kebench.task import Task


def reproduce(
    task: Task,
    pack_name: str,
    out: Path,
    device: str,
    progress: Progress,
    *,
    bases: Sequence[str],
    editors: Sequence[str],
) -> list[Path]:
    """Builds the pack, trains the base models, and trains the editors on the default base model.

    The recipes are the recorded ones. Folders below `out` have the same names as below `tasks/<pack>`. If no
    base model is requested, the editors are trained on the shipped one. The cache is not used. Complete
    folders in `out` stay as they are, so the same command continues after an interruption.

    Returns:
        The folders, each with a README.md.

    Raises:
        NotFound: the task has no such pack, or a name is not that of something shipped with kebench.
    """
    _check_known("pack", [pack_name], [name for name, each in task.packs.items() if each.shipped])
    _check_known("model", bases, [name for name, each in task.models.items() if each.shipped])
    _check_known("editor", editors, task.shipped_editors)
    pack = _pack(task, pack_name, out)
    made = []
    for base in bases:
        made.append(out / _below(task.models[base].shipped, pack_name))
        train_model(task, base, pack, made[-1], progress, device)
    if not editors:
        return made

    default = out / _below(task.models[task.default_model].shipped, pack_name)
    if (default / MODEL_CARD).is_file():
        model = load_model(str(default), task, device=device)
    else:
        model = find_model(task, None, pack, progress, device)
    rules = protocol("strict", labels=task.family == "classifier")
    inputs = make_inputs(task, pack, model, rules, "alternative", 0, progress)
    for name in editors:
        width = partial(model_width, task, None, pack.name, model)
        shown, editor = load_editor(name, task=task.name, pack=pack.name, model_width=width)
        assert isinstance(editor, AbstractTrainedEditor), (
            f"{name} learns nothing: nothing of it can be shipped"
        )
        made.append(out / "editors" / f"{task.name}--{shown}")
        learn_state(shown, editor, inputs, made[-1], progress)
    return made


def _check_known(kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise NotFound(f"shipped {kind}", name, known)


def _pack(task: Task, name: str, out: Path) -> Pack:
    """Returns the pack. It is built, unless `out` holds it."""
    folder = out / _below(task.packs[name].shipped, name)
    if (folder / LOCK).is_file():
        return read_pack(folder)
    return build_pack(task, name, shipped_root(), folder)


def _below(shipped: str | None, pack: str) -> Path:
    """Returns a shipped path, such as `mini/models/bart-mini`, relative to the pack: `models/bart-mini`."""
    assert shipped is not None
    return Path(shipped).relative_to(pack)
