"""What comes with kebench: it is what its cards say, it is found, and it can be made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

import kebench.files.shipped
from kebench.errors import BadFile
from kebench.files.checked import file_sha256
from kebench.files.shipped import MODEL_CARD, STATE, STATE_CARD, SUMS, shipped_root, shipped_state
from kebench.files.yaml import validated
from kebench.models.load import load_model
from kebench.packs.pack import Pack, read_pack
from kebench.running.preparation import find_model, find_pack
from kebench.running.progress import Silent
from kebench.running.reproduce import reproduce
from kebench.task import load_task
from kebench.training.base import Training, _pairs, accuracy_of

MINI = shipped_root() / "mini"
MODELS = {"zsre": "bart-mini", "fever": "bert-mini", "counterfact": "llama-mini"}
TASKS = pytest.mark.parametrize("task", MODELS)
EDITORS = {"zsre": "knowledge_editor", "fever": "knowledge_editor", "counterfact": "ultraedit"}
WANTED = {
    "zsre": (0.90, 0.80),
    "fever": (0.95, 0.85),
    "counterfact": (0.95, 0.95),
}  # on pairs trained on, and on others
MB = 1_000_000


def card_of(folder: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / name).read_text(encoding="utf-8"))
    return found


@cache
def pack_of(task: str) -> Pack:
    return read_pack(MINI / task)


def types_in(file: Path) -> set[str]:
    with safe_open(file, "pt") as tensors:
        return {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118


@pytest.mark.slow
@TASKS
def test_a_model_knows_its_facts(task: str) -> None:
    """Measured here, not read from the card, on 300 pairs of either kind."""
    loaded = load_task(task)
    name = loaded.default_model
    model = load_model(str(MINI / "models" / MODELS[task]), loaded)
    settings = validated(Training, dict(loaded.models[name].training), "recipe")
    shown, unshown = _pairs(read_pack(MINI / task).splits, settings)
    assert not {each.prompt for each in shown} & {each.prompt for each in unshown}
    on_shown, on_unshown = WANTED[task]
    assert accuracy_of(model, shown[:300]) >= on_shown
    assert accuracy_of(model, unshown[:300]) >= on_unshown


@TASKS
def test_a_models_card_is_its_recipes(task: str) -> None:
    loaded = load_task(task)
    recipe = loaded.models[loaded.default_model]
    card = card_of(MINI / "models" / MODELS[task], MODEL_CARD)
    assert card["name"] == loaded.default_model
    assert card["pack_sha256"] == pack_of(task).sha256
    training = card["training"]
    assert isinstance(training, dict)
    assert {name: training[name] for name in recipe.training} == dict(recipe.training)


@TASKS
def test_an_editors_card_is_its_files(task: str) -> None:
    from kebench.edits.editor import AbstractTrainedEditor, load_editor, settings_of

    loaded, pack = load_task(task), pack_of(task)
    for name in loaded.shipped_editors:
        card = card_of(MINI / "editors" / f"{task}--{name}", STATE_CARD)
        assert card["pack_sha256"] == pack.sha256
        assert card["model"] == loaded.default_model
        editor = load_editor(name, task=task, pack="mini")[1]
        assert isinstance(editor, AbstractTrainedEditor)
        assert card["settings"] == json.loads(json.dumps(settings_of(editor.prepared_by())))
        assert types_in(MINI / "editors" / f"{task}--{name}" / STATE) == {"F16"}


def test_no_editor_trains_out_of_the_box() -> None:
    """Every row learns what a shipped one has learnt: with a loop, or with noise in its place.

    Those of REPRODUCTION.md are for real records, whose base models are trained when first used too.
    """
    from kebench.edits.editor import AbstractTrainedEditor, editor_key, load_editor
    from kebench.edits.editor_files import editor_rows

    def learnt(name: str) -> str | None:
        editor = load_editor(name, task="zsre", pack="mini")[1]
        return editor_key(editor.prepared_by()) if isinstance(editor, AbstractTrainedEditor) else None

    ready = {None, *map(learnt, load_task("zsre").shipped_editors)}
    trains = {name for name in editor_rows() if learnt(name) not in ready}
    tuned = ("", "_l2", "_loop", "_paraphrases", "_paraphrases_loop", "_fever", "_zsre")
    others = {"preconditioned_step", "random_update_tuned", "knowledge_editor_beam"}
    causal = {"rome", "r_rome", "memit", "alphaedit"}  # which learn a covariance in seconds
    paper = {"knowledge_editor_paper", "knowledge_editor_paper_zsre"}
    assert trains == others | causal | paper | {f"knowledge_editor_tuned{row}" for row in tuned}


def test_the_checksums_are_those_of_all_models_and_states() -> None:
    listed = dict(
        reversed(line.split("  ")) for line in (MINI / SUMS).read_text(encoding="utf-8").splitlines()
    )
    files = [file for room in ("editors", "models") for file in MINI.glob(f"{room}/*/*") if file.is_file()]
    assert listed == {file.relative_to(MINI).as_posix(): file_sha256(file) for file in files}


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_shipped_file_that_is_damaged_is_refused(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kebench.files.shipped, "shipped_root", lambda: tmp_path)
    folder = tmp_path / "toy" / "editors" / "a"
    folder.mkdir(parents=True)
    (folder / STATE_CARD).write_text(json.dumps({"digest": "x"}))
    (folder / STATE).write_bytes(b"state")
    (tmp_path / "toy" / SUMS).write_text(f"{file_sha256(folder / STATE)}  editors/a/{STATE}\n")
    assert shipped_state("x") == folder
    (folder / STATE).unlink() if damage == "missing" else (folder / STATE).write_bytes(b"State")
    assert shipped_state("y") is None
    with pytest.raises(BadFile, match=rf"{STATE}: .*; install kebench again"):
        shipped_state("x")


def test_it_is_small() -> None:
    models = [MINI / "models" / name / "model.safetensors" for name in MODELS.values()]
    states = list(MINI.glob(f"editors/*/{STATE}"))
    assert len(states) == sum(len(load_task(task).shipped_editors) for task in MODELS)
    assert all(types_in(file) == {"F16"} for file in models)
    assert sum(file.stat().st_size for file in models) < 40 * MB
    assert sum(file.stat().st_size for file in states) < 45 * MB  # seven states; the wheel may have 80


@TASKS
def test_the_defaults_are_found_without_a_home(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEBENCH_HOME", str(tmp_path / "home"))
    loaded = load_task(task)
    pack = find_pack(loaded, None)
    assert pack.folder == MINI / task
    assert find_model(loaded, None, pack, Silent(), "cpu").name == loaded.default_model
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
@TASKS
def test_the_main_command_out_of_the_box(task: str, tmp_path: Path) -> None:
    """From another folder, with an empty home and no hub: nothing is trained, and one line says what ran."""
    done = subprocess.run(
        [sys.executable, "-m", "kebench", "run", "--editor", EDITORS[task], "--task", task,
         "--limit", "8", "--retain", "20"],
        cwd=tmp_path, env={**os.environ, "KEBENCH_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == (
        f"{task}: pack mini, model kebench/{MODELS[task]}; see --pack, --model for the paper's setting"
    )
    assert not any(line.startswith(("prepare", "train")) for line in done.stderr.splitlines()), done.stderr
    assert f"{task} version 1: kebench/{MODELS[task]} on mini, strict protocol" in done.stdout
    assert "held-out" in done.stdout


FACTS = "relation\tsubject\tobject\tfalse\ttense\n" + "".join(
    f"P1\tPerson{number}\t{'Oslo' if number % 2 else 'Rome'}\t{'Rome' if number % 2 else 'Oslo'}\tpresent\n"
    for number in range(60)
)
RELATIONS = {
    "P1": {
        "name": "home",
        "questions": [
            f"{word} town is home to [X]?" for word in ("What", "Which", "Whose", "That", "This", "Any")
        ],
        "claims": [f"{word} [X] lives in [Y]." for word in ("Now", "So", "Yes", "Still", "Here", "Then")],
    }
}


@pytest.mark.slow
def test_everything_shipped_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = tmp_path / "tasks", tmp_path / "toy"
    (root / "toy").mkdir(parents=True)
    (root / "toy" / "facts.tsv").write_text(FACTS, encoding="utf-8")
    (root / "toy" / "relations.yaml").write_text(yaml.safe_dump(RELATIONS), encoding="utf-8")
    (root / "fast.yaml").write_text(
        "editor: kebench.baselines.knowledge_editor:KnowledgeEditor\ndescription: quick\n"
        "settings: {steps: 2, warmup_steps: 0, edits_per_step: 2, retain_per_edit: 2, validate_every: 1,"
        " validate_edits: 2, condition_size: 8, head_size: 4, lstm_size: 4, save_as: float16}\n"
    )  # fmt: skip
    fields = yaml.safe_load((shipped_root() / "zsre.yaml").read_text(encoding="utf-8"))
    base = fields["models"]["kebench/bart-mini"]
    base["shipped"] = "toy/models/bart"
    base["architecture"] |= {
        "vocab_size": 300, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
    }  # fmt: skip
    # Long enough that it answers something.
    base["training"] |= {"max_steps": 80, "evaluate_every": 80, "batch_size": 16, "warmup_steps": 0}
    base["training"] |= {"learning_rate": 5e-3}
    pack = fields["packs"]["mini"] | {
        "shipped": "toy/zsre",
        "sources": [{"format": "mini_zsre", "path": "toy/facts.tsv"}],
        "split": {"train": 0.5, "dev": 0.25, "test": 0.25},
    }
    fields |= {"models": {"kebench/bart": base}, "default_model": "kebench/bart", "packs": {"toy": pack}}
    fields |= {"default_pack": "toy", "shipped_editors": [str(root / "fast.yaml")]}
    file = root / "zsre.yaml"
    file.write_text(yaml.safe_dump(fields), encoding="utf-8")
    monkeypatch.setattr(kebench.files.shipped, "shipped_root", lambda: root)
    monkeypatch.setattr("kebench.running.reproduce.shipped_root", lambda: root)
    monkeypatch.setenv("KEBENCH_HOME", str(tmp_path / "home"))
    task = load_task(str(file))

    made = reproduce(
        task, "toy", out, "cpu", Silent(), bases=["kebench/bart"], editors=task.shipped_editors
    )  # fmt: skip

    assert made == [out / "models" / "bart", out / "editors" / "zsre--fast"]
    assert all((folder / "README.md").is_file() for folder in made)
    assert {path.name for path in made[1].iterdir()} >= {STATE, STATE_CARD, "history.json"}
    assert not list(out.rglob("work"))
    assert types_in(made[0] / "model.safetensors") == types_in(made[1] / STATE) == {"F16"}
    # In their place, they are found: nothing is trained again.
    out.rename(root / "made")
    (root / "toy").rename(root / "sources")
    (root / "made").rename(root / "toy")
    found = find_pack(task, None)
    assert found.folder == root / "toy" / "zsre"
    model = find_model(task, None, found, Silent(), "cpu")
    digest = str(card_of(root / "toy" / "editors" / "zsre--fast", STATE_CARD)["digest"])
    assert model.name == "kebench/bart"
    assert kebench.files.shipped.shipped_state(digest) == root / "toy" / "editors" / "zsre--fast"
