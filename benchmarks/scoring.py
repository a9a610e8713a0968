"""(j) Measures the memory and the CPU time of scoring the rows of a run, for growing numbers of edits."""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.lines import Line
from benchmarks.made_up import write
from benchmarks.session import Session
from benchmarks.timing import Ratio
from kebench.scoring.rows import ROWS

MIB = 1 << 20


def lines(session: Session) -> list[Line]:
    """Returns one line for each number of edits, and two for streams."""
    most = session.settings.scored_edits
    found = []
    for regime, sizes in (("single", (most // 100, most // 10, most)), ("batch", (most // 100, most // 10))):
        for n_edits in sizes:
            with tempfile.TemporaryDirectory() as folder:
                found.append(_line(Path(folder), regime, n_edits))
    return found


def _line(folder: Path, regime: str, n_edits: int) -> Line:
    what = f"{n_edits:,} edits" if regime == "single" else f"a stream of {n_edits:,} edits"
    sys.stderr.write(f"j {what}\n")
    write(folder, n_edits, is_stream=regime != "single")
    words = ["-m", "benchmarks.made_up", str(folder), regime]
    done = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True)
    peak, seconds = map(float, done.stdout.split())
    on_disk = (folder / ROWS).stat().st_size / n_edits
    mib = peak / MIB
    return Line(
        "j", f"scores of {what}: peak memory", Ratio(mib, mib, mib), unit="MiB",
        seconds=seconds / n_edits, unit_of_seconds="edit", note=f"{on_disk:,.0f} bytes a row on disk",
    )  # fmt: skip
