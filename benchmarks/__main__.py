"""`python -m benchmarks` prints a table of measurements. `benchmarks/README.md` explains each line of it."""

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.items import CONTESTS, ITEMS
from benchmarks.lines import Line, table
from benchmarks.machine import described
from benchmarks.session import Session
from benchmarks.settings import DTYPES, LAYERS, Settings
from kebench.files.writing import write_text


def chosen(_context: click.Context, _option: click.Parameter, text: str) -> list[str]:
    """Returns the items in a list of letters such as `a,b`."""
    letters = [letter.strip() for letter in text.split(",")]
    if unknown := [letter for letter in letters if letter not in ITEMS]:
        raise click.BadParameter(f"found '{unknown[0]}', wanted some of {','.join(ITEMS)}")
    return letters


@click.command()
@click.option(
    "--only", default=",".join(ITEMS), callback=chosen, help="Items to measure, such as a,b; all by default."
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--dtype", "type_", type=click.Choice(DTYPES), default="float32", show_default=True)
@click.option("--quick", is_flag=True, help="Use small sizes, to test that everything works.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the results to this file, as JSON.")
@click.option("--runs", type=click.IntRange(1), help="Number of timed rounds.")
@click.option("--rows", type=click.IntRange(1), help="Number of rows with many edits in force (a).")
@click.option("--fever-rows", type=click.IntRange(32), help="Number of test rows of FEVER (b).")
@click.option("--zsre-rows", type=click.IntRange(8), help="Number of test rows of zsRE (b, g).")
@click.option("--scored-edits", type=click.IntRange(100), help="Largest number of edits that are scored (j).")
@click.option("--edits", type=click.IntRange(1), help="Number of edits (b).")
def main(
    only: list[str], device: str, type_: str, quick: bool, out: Path | None, **sizes: int | None
) -> None:
    """Measures how fast kebench is, and prints a Markdown table."""
    changes = {name: size for name, size in sizes.items() if size is not None}
    session = Session(Settings.of(device, type_, quick=quick, changes=changes), CONTESTS)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["KEBENCH_HOME"] = home  # the answers of random models are not worth keeping
        click.echo(described(session.machine), err=True)
        for letter in only:
            lines += ITEMS[letter](session)
            if out:  # after each item, so that an interruption loses little
                write_text(json.dumps(_to_json(session, lines), indent=1), out)
    if session.settings.layers < LAYERS:
        click.echo(f"DO NOT QUOTE: models of base size have only {session.settings.layers} layers here.\n")
    click.echo(f"{described(session.machine)}.\n\n{table(lines, session.settings.place.type)}")


def _to_json(session: Session, lines: list[Line]) -> dict[str, Any]:
    return {
        "machine": session.machine,
        "settings": asdict(session.settings),
        "lines": [asdict(line) for line in lines],
    }


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32
    main()
