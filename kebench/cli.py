"""The commands: the only module that prints or exits. Torch is imported only by those that compute."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import click

from kebench import __version__
from kebench.errors import BadSetting, KebenchError, NotFound, did_you_mean
from kebench.running.settings import RunSettings

if TYPE_CHECKING:
    from kebench.packs.pack import Pack
    from kebench.running.one_edit import Edited
    from kebench.running.progress import Progress
    from kebench.task import PackSource, Task

Command = TypeVar("Command", bound=Callable[..., Any])


class OneLineErrors(click.Group):
    """Shows a user's mistake as one line, and exits with status 2."""

    group_class = type  # subgroups do the same

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except KebenchError as error:
            click.echo(f"kebench: {one_line(str(error))}", err=True)
            ctx.exit(2)
        except PermissionError as error:
            click.echo(f"kebench: {error.filename}: {error.strerror}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("kebench: interrupted; the same command goes on from here", err=True)
            ctx.exit(130)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Adds the nearest name to an unknown command's error."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            commands = self.list_commands(ctx)
            raise KebenchError(f"no command named '{args[0]}'{did_you_mean(args[0], commands)}")
        return super().resolve_command(ctx, args)


def one_line(text: str) -> str:
    """The text without line breaks, and without what could move a terminal's cursor."""
    plain = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kebench")
@click.option("-v", "--verbose", is_flag=True, help="Log what is done.")
def cli(verbose: bool) -> None:
    """Knowledge-editing benchmarks: run editors on tasks, score them, publish tables."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def main() -> None:
    """The console script; click's own mistakes are told in one line too."""
    sys.path.append(str(Path.cwd()))  # a user's own editor, given as module:Class, is looked for here last
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        no_arguments = isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ()))
        message = error.format_message()
        click.echo(message if no_arguments else f"kebench: {one_line(message)}", err=True)
        sys.exit(2)
    except click.Abort:
        sys.exit(130)


# Flags of several commands ---------------------------------------------------------------------------


def _name_and_value(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, Any] | None:
    """What `-s NAME=VALUE`, given once or more, sets; None if it is not given."""
    if not given:
        return None
    from kebench.files.yaml import yaml_value

    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise BadSetting(f"-s: found '{text}', wanted NAME=VALUE")
        if name in found:
            raise BadSetting(f"-s {name}: found twice, wanted once")
        found[name] = yaml_value(value, f"-s {name}")
    return found


def _numbers(_: click.Context, option: click.Parameter, given: str | None) -> list[int] | None:
    """The numbers of a comma-separated list; None if it is not given."""
    if given is None:
        return None
    names = _names(given)
    if not all(name.isdecimal() for name in names):
        raise BadSetting(f"{option.opts[0]}: found '{given}', wanted numbers with commas between them")
    return [int(name) for name in names]


_FLAGS = {"editors": ("--editor", "editors"), "settings": ("-s", "--setting", "settings")}
_TYPES: Mapping[Any, type] = {int: int, int | None: int, float | None: float}
_OTHERWISE: Mapping[str, Mapping[str, Any]] = {
    "limit": {"type": click.IntRange(min=0)},
    "precision": {"metavar": "POINTS"},
    "ask_after": {"metavar": "N,N,...", "callback": _numbers},
    "settings": {"multiple": True, "metavar": "NAME=VALUE", "callback": _name_and_value},
}


def run_options(*names: str, **changes: Mapping[str, Any]) -> Callable[[Command], Command]:
    """Gives a command flags for fields of `RunSettings`, with the type and the help that each has there.

    Args:
        names: the fields; by default all of them.
        changes: field → arguments of `click.option` that replace those.
    """
    hints = get_type_hints(RunSettings, include_extras=True)

    def add(command: Command) -> Command:
        for name in reversed(names or [*hints]):
            kind, text = get_args(hints[name])
            flags = _FLAGS.get(name, (f"--{name.replace('_', '-')}",))
            options = {"type": _TYPES.get(kind, str), "help": text, **_OTHERWISE.get(name, {})}
            command = click.option(*flags, **{**options, **changes.get(name, {})})(command)
        return command

    return add


# run -------------------------------------------------------------------------------------------------


@cli.command()
@run_options()
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="The same options as YAML.")
def run(config: Path | None, editors: str | None, settings: dict[str, Any] | None, **options: Any) -> None:
    """Run editors on a task and print their scores. Makes what is missing; goes on where it was cut off."""
    from kebench.files.yaml import as_mapping, read_yaml

    fields = dict(as_mapping(read_yaml(config), config)) if config else {}
    fields.update({name: value for name, value in options.items() if value is not None})
    if editors is not None:
        fields["editors"] = editors
    if settings is not None:
        there = fields.get("settings")
        fields["settings"] = {**there, **settings} if isinstance(there, dict) else settings
    if isinstance(fields.get("editors"), str):
        fields["editors"] = _names(fields["editors"])
    for flag, name in (("--editor", "editors"), ("--task", "task")):
        if not fields.get(name):
            raise BadSetting(f"run: {flag} is missing")
    asked = _settings(fields, config or "run")
    _check_names(asked)
    click.echo(_what_runs(asked), err=True)

    from kebench.leaderboard import table_text
    from kebench.running.progress import Progress
    from kebench.running.run import run as run_editors

    folder, records = run_editors(asked, progress=Progress())
    click.echo(table_text(records))
    click.echo(f"\n{folder}")


def _names(text: str) -> list[str]:
    """The names of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given, or that have a default."""
    return {name: value for name, value in fields.items() if value is not None}


def _settings(fields: dict[str, Any], place: Path | str) -> RunSettings:
    """The settings that flags and file mean."""
    from kebench.files.yaml import validated

    for flag, word in (("retain", "exact"), ("batch-size", "auto")):
        found = fields.get(flag.replace("-", "_"))
        if isinstance(found, str) and found != word and not found.isdecimal():
            raise BadSetting(f"--{flag}: found '{found}', wanted a number or '{word}'")
    for flag, words in (("targets", ("alternative", "gold")), ("split", ("test", "dev"))):
        if flag in fields and fields[flag] not in words:
            raise BadSetting(f"--{flag}: found '{fields[flag]}', wanted {' or '.join(words)}")
    settings = validated(RunSettings, fields, place)
    settings.check()
    return settings


def _what_runs(settings: RunSettings) -> str:
    """Which pack and model, in one line, before anything takes time."""
    from kebench.task import load_task

    task = load_task(settings.task)
    pack = settings.pack or task.default_pack
    told = f"{task.name}: pack {pack}, model {settings.model or task.model_for(pack)}"
    if settings.pack is None and settings.model is None and task.packs[pack].shipped:
        told += "; see --pack, --model for the paper's setting"
    return one_line(told)


def _check_names(settings: RunSettings) -> None:
    """Finds a typo before torch is imported, and tells which code from outside the package will run."""
    from kebench.files.home import pack_folder
    from kebench.task import load_task

    task = load_task(settings.task)
    _tell_editors(settings.editors)
    if settings.pack is not None and settings.pack not in task.packs and not Path(settings.pack).exists():
        raise NotFound("pack", settings.pack, task.packs)
    pack = settings.pack or task.default_pack
    if pack in task.packs and not pack_folder(task.name, pack).is_dir():
        _tell_formats(task.packs[pack].sources)


def _tell_editors(names: Iterable[str]) -> None:
    """Tells which modules of editors are from outside the package.

    Raises:
        KebenchError: there is no editor of one of the names, or its file is wrong.
    """
    from kebench.edits.editor_files import find_editor

    editors = [find_editor(name).editor for name in names]
    _tell((editor for editor in editors if not editor.startswith("kebench.baselines.")), "an editor")


def _tell_formats(sources: Iterable[PackSource]) -> None:
    """Tells which modules of formats are from outside the package."""
    _tell((source.format for source in sources if ":" in source.format), "a format")


def _tell(references: Iterable[str], kind: str) -> None:
    for module in dict.fromkeys(one_line(each.partition(":")[0]) for each in references):
        click.echo(f"loading {module}: {kind} is code, run only what you trust", err=True)


# ls --------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("what", required=False, default="all")
def ls(what: str) -> None:
    """List editors, tasks, models and runs."""
    sections = {"editors": _editors, "tasks": _tasks, "models": _models, "runs": _runs}
    if what != "all" and what not in sections:
        raise KebenchError(f"ls: cannot list '{what}'{did_you_mean(what, sections)}")
    for name, lines in sections.items():
        if what in ("all", name):
            click.echo(f"{name}:" if what == "all" else "", nl=what == "all")
            for line in lines():
                click.echo(f"  {line}")


def _editors() -> list[str]:
    from kebench.edits.editor_files import editor_files

    lines = []
    for file in editor_files():
        lines += [f"{row.name:40} {row.description}" for row in file.rows]
        recipes = [f"{name} (default)" if name == file.default_recipe else name for name in file.recipes]
        told = [
            *([f"@ {', '.join(recipes)}"] if len(recipes) > 1 else []),
            *([f"+ {', '.join(file.variants)}"] if file.variants else []),
        ]
        lines += [f"  {file.name} {line}" for line in told]
    return lines


def _tasks() -> list[str]:
    from kebench.task import load_task, task_names

    return [f"{name:32} {load_task(name).description}" for name in task_names()]


def _models() -> list[str]:
    from kebench.task import load_task, task_names

    return [
        f"{model:32} {name}{' (default)' if model == task.default_model else ''}"
        for name in task_names()
        for task in (load_task(name),)
        for model in task.models
    ]


def _runs() -> list[str]:
    import json

    found = []
    for file in sorted(Path("runs").glob("*/run.json")):
        editors = ", ".join(sorted(path.parent.name for path in file.parent.glob("*/record.json")))
        try:
            setting = json.loads(file.read_text(encoding="utf-8"))["setting"]
            shown = f"{setting['task']}, {setting['model']}: {editors or 'unfinished'}"
        except (ValueError, KeyError, TypeError):
            shown = "not a run's folder: run.json is broken"
        found.append(f"{file.parent!s:32} {shown}")
    return found


# train -----------------------------------------------------------------------------------------------


@cli.command()
@click.option("--base", help="Train a base model: one of the task's models.")
@click.option("--editor", help="Prepare an editor: a name, a YAML path or module:Class.")
@run_options(
    "task", "model", "pack", "settings", "protocol", "device",
    task={"required": True},
    model={"help": "The base model an editor is prepared for. Default: the pack's."},
    protocol={"default": "strict", "show_default": True},
)  # fmt: skip
@click.option(
    "--reproduce",
    metavar="PACK",
    help="Make again, from nothing, what comes with kebench for that pack (mini): the base model and every"
    " editor, or the one that --base or --editor names.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the base model goes, or all that --reproduce makes.",
)
def train(
    base: str | None, editor: str | None, reproduce: str | None, out: Path | None, **fields: Any
) -> None:  # fmt: skip
    """Train a base model, or prepare an editor, ahead of time. Interrupted, it goes on where it was."""
    from kebench.running.progress import Progress
    from kebench.scoring.protocols import protocol as find_protocol
    from kebench.task import load_task

    loaded, device = load_task(fields["task"]), fields["device"]
    # A typo is found before torch is imported.
    find_protocol(fields["protocol"], labels=loaded.family == "classifier")
    progress = Progress()
    if fields["settings"] is not None and (editor is None or reproduce is not None):
        raise BadSetting("train: found -s, wanted it with --editor alone: it changes an editor's settings")
    if reproduce is not None:
        if fields["model"] is not None or fields["pack"] is not None:
            raise BadSetting("train: --reproduce takes neither --model nor --pack: it makes what it says")
        _reproduce(loaded, reproduce, base, editor, out or Path(reproduce), device, progress)
    elif base is not None and editor is None:
        _train_base(base, loaded, fields["pack"], out, device, progress)
    elif editor is not None and base is None:
        _tell_editors([editor])
        _prepare_editor(_settings({"editors": (editor,), **_given(fields)}, "train"), progress)
    else:
        raise BadSetting("train: give --base MODEL or --editor NAME, one of them")


def _train_base(
    base: str, task: Task, pack: str | None, out: Path | None, device: str | None, progress: Progress
) -> None:
    from kebench.running.preparation import device_or_default, find_pack, train_model, trained_model_folder

    if base not in task.models:
        raise NotFound(f"model of the task {task.name}", base, task.models)
    found = find_pack(task, pack)
    folder = out or trained_model_folder(task, base, found)
    train_model(task, base, found, folder, progress, device_or_default(device))
    progress.close()
    click.echo((folder / "README.md").read_text(encoding="utf-8").rstrip())
    click.echo(f"\n{folder}")


def _reproduce(
    task: Task,
    pack: str,
    base: str | None,
    editor: str | None,
    out: Path,
    device: str | None,
    progress: Progress,
) -> None:
    from kebench.running.preparation import device_or_default
    from kebench.running.reproduce import reproduce

    everything = base is None and editor is None
    made = reproduce(
        task, pack, out, device_or_default(device), progress,
        bases=(task.default_model,) if everything else () if base is None else (base,),
        editors=task.shipped_editors if everything else () if editor is None else (editor,),
    )  # fmt: skip
    progress.close()
    for folder in made:
        click.echo((folder / "README.md").read_text(encoding="utf-8").rstrip())
        click.echo(f"\n{folder}\n")


def _prepare_editor(settings: RunSettings, progress: Progress) -> None:
    from kebench.edits.editor import AbstractTrainedEditor
    from kebench.running.preparation import prepare_editor, state_folder
    from kebench.running.run import inputs_of, load_editors

    ((shown, editor),) = load_editors(settings).items()
    if not isinstance(editor, AbstractTrainedEditor):
        raise BadSetting(f"editor {shown}: learns nothing, so there is nothing to prepare")
    inputs = inputs_of(settings, progress)
    prepared = prepare_editor(shown, editor, inputs, progress)
    progress.close()
    size = sum(tensor.numel() for tensor in prepared.state.values())
    click.echo(f"{shown}: {size:,} numbers, learnt in {prepared.seconds:.0f} s")
    click.echo(str(state_folder(editor, inputs)))


# beliefs ---------------------------------------------------------------------------------------------


@cli.command()
@run_options(
    "editors", "task", "model", "pack", "settings", "limit", "retain", "seed", "device",
    editors={"required": True},
    task={"required": True},
    limit={"type": click.IntRange(min=1), "default": 30, "show_default": True, "help": "How many edits."},
    retain={"type": int, "default": 20, "show_default": True, "help": "Other questions asked of each."},
    seed={"default": 0, "show_default": True, "help": "Of the choice of edits."},
)  # fmt: skip
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("beliefs"),
    show_default=True,
    help="The folder for a CSV and an SVG of each editor.",
)
def beliefs(editors: str, out: Path, **fields: Any) -> None:
    """Draw how an edit moves the log-odds of its claim, of its paraphrases and of everything else."""
    settings = _settings({"editors": _names(editors), **_given(fields)}, "beliefs")
    _check_names(settings)
    click.echo(_what_runs(settings), err=True)

    from kebench.beliefs.beliefs import beliefs_of, write_beliefs
    from kebench.beliefs.drawing import draw_beliefs, needs_matplotlib
    from kebench.running.folder import make_folder
    from kebench.running.progress import Progress
    from kebench.scoring.record import editor_folder

    needs_matplotlib()  # told before the work, not after it
    make_folder(out, "--out")
    progress = Progress()
    try:
        for name, setting, found in beliefs_of(settings, progress):
            place = editor_folder(out, name)
            write_beliefs(found, Path(f"{place}.csv"))
            title = f"{name}\n{setting.task}, {setting.pack}, {setting.model}"
            draw_beliefs(found, title, Path(f"{place}.svg"))
            progress.close()
            click.echo(f"{place}.svg")
    finally:
        progress.close()


# edit, export ----------------------------------------------------------------------------------------

_ALSO = click.option(
    "--also", multiple=True, metavar="PROMPT", help="Another question to ask before and after."
)
_SAVE = click.option(
    "--save", type=click.Path(file_okay=False, path_type=Path), help="Write the edited model to this folder."
)
_LORA = click.option(
    "--lora",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the edit to this folder, as a LoRA adapter that peft loads.",
)
_RANK = click.option(
    "--rank",
    type=click.IntRange(min=1),
    help="With --lora: the largest rank of a layer. A dense change has none, and needs it.",
)


@cli.command()
@run_options(
    "editors", "settings", "task", "model", "pack", "device",
    editors={"required": True, "help": "An editor: a name, a YAML path or module:Class."},
    task={"help": "Says how prompts are put to the model. Default: the task that has this model."},
    pack={"help": "What an editor that learns first is trained on. Default: the task's."},
)  # fmt: skip
@click.option("--prompt", required=True, help="The question whose answer is to change.")
@click.option("--target", required=True, help="The answer that the model is to give.")
@click.option("--subject", help="What the prompt is about, a part of it. Some editors need it.")
@_ALSO
@_SAVE
@_LORA
@_RANK
def edit(
    editors: str,
    settings: dict[str, Any] | None,
    also: tuple[str, ...],
    save: Path | None,
    lora: Path | None,
    rank: int | None,
    **options: Any,
) -> None:
    """Make one edit, and show what the model answers before and after."""
    _tell_editors([editors])

    from kebench.running.one_edit import edit as make_edit
    from kebench.running.progress import Progress

    progress = Progress()
    try:
        made = make_edit(editors, settings=settings, also=also, progress=progress, **options)
    finally:
        progress.close()
    _show_edit(made, save, lora, rank)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--edit", "id_", required=True, metavar="ID", help="The edit's id, as in edits.jsonl.")
@click.option("--editor", help="Whose edit, where the run holds several editors.")
@click.option("--task", help="The task's file, if it is not one of kebench's.")
@click.option("--model", help="Where the base model is, if its name does not tell.")
@click.option("--device", help="cpu, cuda, cuda:1, mps. Default: cuda if there is one.")
@_ALSO
@_SAVE
@_LORA
@_RANK
def export(
    run: Path,
    id_: str,
    also: tuple[str, ...],
    save: Path | None,
    lora: Path | None,
    rank: int | None,
    **options: Any,
) -> None:
    """Make an edit of a run again, show it, and ship it."""
    from kebench.running.one_edit import edit_again
    from kebench.running.progress import Progress

    progress = Progress()
    try:
        made = edit_again(run, id_, also=also, progress=progress, **options)
    finally:
        progress.close()
    _show_edit(made, save, lora, rank)


def _show_edit(made: Edited, save: Path | None, lora: Path | None, rank: int | None) -> None:
    """Prints the answers before and after an edit, and writes what is to be shipped."""
    for number, each in enumerate(made.answers):
        mark = f"   (wanted: {one_line(made.edit.target)})" if number == 0 else ""
        click.echo(f"{one_line(each.prompt)}\n  before: {one_line(each.before)}")
        click.echo(f"  after:  {one_line(each.after)}{mark}")
    if save is not None:
        click.echo(f"\nedited model: {made.save(save)}")
    if lora is not None:
        residuals = made.to_lora(lora, rank=rank)
        largest = max(residuals.values(), default=0.0)
        exact = "exact" if largest == 0 else f"largest relative residual of a layer: {largest:.1e}"
        click.echo(f"\nLoRA adapter ({exact}): {lora}")


# tune ------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--editor", required=True, help="An editor: a name, a YAML path or module:Class.")
@click.option(
    "--grid",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="YAML: a list of mappings of settings to values; or a mapping of settings to lists of values, all"
    " combinations of which are tried.",
)
@run_options(
    "task", "model", "pack", "settings", "limit", "retain", "seed", "output", "device",
    task={"required": True},
    settings={"help": "Settings that replace those of the editor's file in every trial, as NAME=VALUE."},
    limit={"default": 64, "show_default": True, "help": "How many dev edits; 0: all."},
    retain={"default": "50", "show_default": True, "help": "Questions asked of each edit, or 'exact'."},
    seed={"default": 0, "show_default": True, "help": "Of the choice of edits."},
    output={"help": "The folder of the trials. Default: runs/tune-<task>-<editor>-<key>."},
)  # fmt: skip
def tune(editor: str, grid: Path, **fields: Any) -> None:
    """Try settings of an editor on a pack's dev split; say which are best. Goes on where it was cut off."""
    settings = _settings({"editors": (editor,), "split": "dev", **_given(fields)}, "tune")
    _check_names(settings)
    click.echo(_what_runs(settings), err=True)

    from kebench.edits.editor_files import find_editor
    from kebench.leaderboard import trials_text
    from kebench.running.progress import Progress
    from kebench.running.tune import chosen_as_yaml, read_grid
    from kebench.running.tune import tune as try_all

    folder, tuning = try_all(settings, read_grid(grid), progress=Progress())
    click.echo(trials_text(tuning))
    click.echo(f"{folder}\n")
    click.echo(chosen_as_yaml(tuning, find_editor(editor)) or "every trial failed")


# data ------------------------------------------------------------------------------------------------


@cli.group()
def data() -> None:
    """Make and check packs of records."""


@data.command("import")
@click.option("--format", "format_", required=True, help="The importer: see kebench data formats.")
@click.argument("sources", nargs=-1)
@click.option("--train", multiple=True, help="A source whose records all stay in train, as published.")
@click.option("--dev", multiple=True, help="Likewise dev.")
@click.option("--test", multiple=True, help="Likewise test, which is the split that is edited.")
@click.option(
    "--answers-are",
    type=click.Choice(["true", "counterfactual"]),
    help="What the answers are, in a format whose rows need not say (mend_zsre without `answers`).",
)
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The pack's folder."
)
@click.option("--configuration", help="Of a Hub data set.")
@click.option("--revision", help="The Hub commit, 40 hex digits.")
@click.option("--licence", default="not stated", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split.")
def import_(
    format_: str,
    sources: tuple[str, ...],
    train: tuple[str, ...],
    dev: tuple[str, ...],
    test: tuple[str, ...],
    answers_are: str | None,
    out: Path,
    configuration: str | None,
    revision: str | None,
    licence: str,
    seed: int,
) -> None:
    """Make a pack of SOURCES: files, or Hub ids owner/name.

    The records of all SOURCES are merged and split by fact. With --train, --dev and --test in their place,
    every record stays in its own file's split, and nothing is merged.
    """
    from kebench.packs.build import import_pack

    _tell([format_] if ":" in format_ else [], "a format")
    if bool(sources) == bool(train or dev or test):
        raise BadSetting("data import: give SOURCES, or --train, --dev and --test, one of the two")
    pack = import_pack(
        format_, sources or {"train": train, "dev": dev, "test": test}, out,
        configuration=configuration, revision=revision, licence=licence, seed=seed,
        answers_are={"true": "truth", "counterfactual": "counterfactual", None: None}[answers_are],
    )  # fmt: skip
    _show_pack(pack)


@data.command()
@click.argument("name", metavar="TASK|PACK")
@click.option("--pack", help="One of the task's packs. Default: the task's.")
@click.option(
    "--from", "folder", type=click.Path(file_okay=False, path_type=Path), help="Where its sources lie."
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Default: where runs look for it."
)
def build(name: str, pack: str | None, folder: Path | None, out: Path | None) -> None:
    """Make one of TASK's packs from its sources, each checked against its hash.

    Or every task's pack of the name PACK, each in a folder of its own below --out.
    """
    from kebench.files.home import pack_folder
    from kebench.files.shipped import shipped_root
    from kebench.packs.build import build_pack
    from kebench.task import load_task, task_names

    if folder is not None and not folder.is_dir():
        raise BadSetting(f"--from: {folder} is not a folder")
    tasks = {task: load_task(task) for task in task_names()}
    holders = [task for task in tasks.values() if name in task.packs]
    if name not in tasks and holders and pack is None:
        chosen = [(task, name, out / task.name if out else None) for task in holders]
    else:
        task = load_task(name)
        chosen = [(task, pack or task.default_pack, out)]
    for task, each, place in chosen:
        if each not in task.packs:
            raise NotFound(f"pack of the task {task.name}", each, task.packs)
        _tell_formats(task.packs[each].sources)
        sources = folder or (shipped_root() if task.packs[each].shipped else Path())
        _show_pack(build_pack(task, each, sources, place or pack_folder(task.name, each)))


@data.command()
@click.argument("pack", type=click.Path(path_type=Path))
def verify(pack: Path) -> None:
    """Check that PACK is what its lock says, and that nothing crosses its splits."""
    from kebench.packs.pack import verify_pack

    _show_pack(verify_pack(pack))
    click.echo("ok")


@data.command()
def formats() -> None:
    """List the formats that can be imported."""
    from kebench.packs.formats import format_names

    for name in format_names():
        click.echo(name)


def _show_pack(pack: Pack) -> None:
    click.echo(f"{pack.folder}: pack {pack.name}, sha256 {pack.sha256[:12]}, licence: {pack.lock.licence}")
    for name, file in pack.lock.files.items():
        click.echo(
            f"  {name:12} {file.records:6} records, {file.paraphrases:6} paraphrases, {file.facts:6} facts"
        )
    for origin in pack.lock.origin:
        if origin.answers_are is not None:
            click.echo(f"  {origin.path}: answers taken as {origin.answers_are}, as was said")
    for reason, count in pack.lock.set_aside.items():
        click.echo(f"  set aside: {count} {reason}")


# leaderboard -----------------------------------------------------------------------------------------


@cli.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("leaderboards"),
    show_default=True,
)
@click.option(
    "--check", "check_", is_flag=True, help="Change nothing; fail when a table differs from its records."
)
@click.option("--replace", is_flag=True, help="Let a row, or trials, take the place of others on file.")
def leaderboard(runs: tuple[Path, ...], folder: Path, check_: bool, replace: bool) -> None:
    """Add the records of RUNS (or the trials of a tuning), and rebuild every table from its records."""
    from kebench.leaderboard import add_records, add_tunings, check, rebuild
    from kebench.scoring.tuning import FILE, GRID

    if check_:
        problems = check(folder)
        for problem in problems:
            click.echo(problem)
        if problems:
            raise KebenchError(
                f"{folder}: {len(problems)} tables or records differ; kebench leaderboard rebuilds"
            )
        click.echo(f"{folder}: every table agrees with its records")
        return
    records, tunings = [], []
    for run_folder in runs:
        if (run_folder / GRID).is_file() or (run_folder / FILE).is_file():
            if not (run_folder / FILE).is_file():
                raise KebenchError(
                    f"{run_folder}: an unfinished tuning; the same kebench tune goes on with it"
                )
            tunings.append(run_folder / FILE)
            continue
        found = sorted(run_folder.glob("*/record.json"))
        if not found:
            raise KebenchError(f"{run_folder}: found no */record.json, wanted a finished run's folder")
        records += found
    add_records(folder, records, replace=replace)
    add_tunings(folder, tunings, replace=replace)
    for path in rebuild(folder):
        click.echo(str(path))
