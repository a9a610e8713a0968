"""python -m benchmarks: a table of how fast kebench is. `benchmarks/README.md` says what each line means."""

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


def chosen(_context: click.Context, _option: click.Parameter, text: str) -> list[str]:
    """The items that a list of letters names."""
    letters = [letter.strip() for letter in text.split(",")]
    if unknown := [letter for letter in letters if letter not in ITEMS]:
        raise click.BadParameter(f"found '{unknown[0]}', wanted some of {','.join(ITEMS)}")
    return letters


@click.command()
@click.option("--only", default=",".join(ITEMS), callback=chosen, help="Items, such as a,b; all by default.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--dtype", "type_", type=click.Choice(DTYPES), default="float32", show_default=True)
@click.option("--quick", is_flag=True, help="Sizes that only show that everything works.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the lines there, as JSON.")
@click.option("--runs", type=click.IntRange(1), help="Timed rounds of each.")
@click.option("--rows", type=click.IntRange(1), help="Rows under many edits (a).")
@click.option("--fever-rows", type=click.IntRange(32), help="Test rows of FEVER (b).")
@click.option("--zsre-rows", type=click.IntRange(8), help="Test rows of zsRE (b, g).")
@click.option("--edits", type=click.IntRange(1), help="Edits of (b).")
def main(
    only: list[str], device: str, type_: str, quick: bool, out: Path | None, **sizes: int | None
) -> None:
    """Measures how fast kebench is, and prints a Markdown table."""
    changes = {name: size for name, size in sizes.items() if size is not None}
    session = Session(Settings.of(device, type_, quick=quick, changes=changes), CONTESTS)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["KEBENCH_HOME"] = home  # base answers of random models are of no use to anybody
        click.echo(described(session.machine), err=True)
        for letter in only:
            lines += ITEMS[letter](session)
            if out:  # after each item: what was measured for an hour is not lost
                out.write_text(json.dumps(_to_json(session, lines), indent=1), encoding="utf-8")
    if session.settings.layers < LAYERS:
        click.echo(f"NOT TO BE QUOTED: base-size models are cut to {session.settings.layers} layers.\n")
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
