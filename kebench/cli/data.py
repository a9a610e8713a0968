"""`kebench data import`, `build`, `verify`, `lint` and `formats`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kebench.cli.announcements import announce_code, announce_formats
from kebench.cli.errors import OneLineErrors, one_line
from kebench.cli.options import FOLDER
from kebench.errors import BadSetting, NotFound

if TYPE_CHECKING:
    from kebench.packs.pack import Pack


@click.group(cls=OneLineErrors)
def data() -> None:
    """Make and check packs of records."""


@data.command("import")
@click.option(
    "--format", "format_", required=True, help="The format of the sources; kebench data formats lists them."
)
@click.argument("sources", nargs=-1)
@click.option("--train", multiple=True, help="A source whose records all go into the train split.")
@click.option("--dev", multiple=True, help="A source whose records all go into the dev split.")
@click.option(
    "--test", multiple=True, help="A source whose records all go into the test split, which is edited."
)
@click.option(
    "--answers-are",
    type=click.Choice(["true", "counterfactual"]),
    help="What the answers are, for a format whose rows may not say it (mend_zsre without `answers`).",
)
@click.option("--out", required=True, type=FOLDER, help="The folder for the pack.")
@click.option("--configuration", help="The configuration of a Hub data set.")
@click.option("--revision", help="The commit of a Hub data set, 40 hex digits.")
@click.option("--licence", default="not stated", show_default=True, help="The licence of the sources.")
@click.option("--seed", type=int, default=0, show_default=True, help="The seed for the split.")
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
    """Make a pack from SOURCES: files, or Hub ids owner/name.

    The records of all SOURCES are merged and split by fact. If --train, --dev and --test are given instead
    of SOURCES, every record stays in the split of its file, and nothing is merged.
    """
    from kebench.packs.build import import_pack

    announce_code([format_] if ":" in format_ else [], "a format")
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
@click.option("--from", "folder", type=FOLDER, help="The folder that holds the pack's sources.")
@click.option("--out", type=FOLDER, help="The folder for the pack. Default: where runs look for it.")
def build(name: str, pack: str | None, folder: Path | None, out: Path | None) -> None:
    """Make a task's pack from its sources.

    The hash of each source is checked. Without --pack, the task's default pack is made. If PACK is given
    instead of TASK, the pack of this name is made for every task that has one, each in a folder of its own
    within --out.
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
        announce_formats(task.packs[each].sources)
        sources = folder or (shipped_root() if task.packs[each].shipped else Path())
        _show_pack(build_pack(task, each, sources, place or pack_folder(task.name, each)))


@data.command()
@click.argument("pack", type=click.Path(path_type=Path))
def verify(pack: Path) -> None:
    """Check a pack.

    The files in the folder PACK must have the hashes in its lock, and no fact or text may be in two
    splits, unless the pack keeps the splits of its sources.
    """
    from kebench.packs.pack import verify_pack

    _show_pack(verify_pack(pack))
    click.echo("ok")


@data.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.option(
    "--show", type=click.IntRange(min=0), default=3, show_default=True, help="How many findings of each kind."
)
def lint(pack: Path, show: int) -> None:
    """Report what is probably wrong with a pack's records.

    Duplicates, facts and texts that cross the splits, contradictory answers, targets that are correct or
    stand in the prompt, paraphrases that repeat the prompt or ask something else, and rare labels. The exit
    status is 0 if nothing was found, and 1 otherwise.
    """
    from kebench.packs.lint import labels_of, lint
    from kebench.packs.pack import read_pack

    found = read_pack(pack)
    _show_pack(found)
    for label in labels_of(found):
        counts = {
            split: sum(record.answers[0] == label for record in records)
            for split, records in found.splits.items()
        }
        told = ", ".join(f"{split} {count}" for split, count in counts.items())
        click.echo(f"  label {one_line(label)}: {told}")
    findings = lint(found)
    for kind in dict.fromkeys(each.kind for each in findings):
        same = [each for each in findings if each.kind == kind]
        click.echo(f"{kind}: {len(same)}")
        for each in same[:show]:
            click.echo(f"  {one_line(str(each))}")
    click.echo("nothing found" if not findings else f"{len(findings)} findings")
    if findings:
        click.get_current_context().exit(1)


@data.command()
def formats() -> None:
    """List the formats that kebench data import reads."""
    from kebench.packs.formats import format_names

    for name in format_names():
        click.echo(name)


def _show_pack(pack: Pack) -> None:
    """Prints how many records each split of a pack has, where they came from and what was set aside."""
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
