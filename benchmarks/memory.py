"""(f) Measures the peak memory of each way, in a separate process."""

import subprocess
import sys
from collections.abc import Sequence

from benchmarks.lines import Line
from benchmarks.session import Session
from benchmarks.settings import Settings
from benchmarks.timing import Ratio
from kebench.running.environment import peak_memory_bytes, reset_peak_memory

NOT_ASKED = ("i",)  # its ways are commands, which run in other processes
MIB = 1 << 20


def lines(session: Session) -> list[Line]:
    """Returns one line for each contest: the memory of its first way divided by that of its last."""
    found = []
    for name, make in session.contests.items():
        if name.startswith(NOT_ASKED):
            continue
        ways = list(make(session.settings).ways)
        ours, theirs = (_in_a_process(session.settings, name, way) for way in (ways[0], ways[-1]))
        found.append(
            Line(
                "f",
                f"{name[2:]} ({name[0]}): peak memory, {ways[0]} / {ways[-1]}",
                Ratio(ours / theirs, ours / theirs, ours / theirs),
                note=f"{ours / MIB:,.0f} MiB against {theirs / MIB:,.0f} MiB",
            )
        )
    return found


def _in_a_process(settings: Settings, name: str, way: str) -> int:
    sys.stderr.write(f"f {name}: {way}\n")
    words = ["-m", "benchmarks.memory", settings.to_json(), name, way]
    done = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.split()[-1])


def main(words: Sequence[str]) -> None:
    """Runs one way once and prints the peak memory in bytes, of the process or of the accelerator."""
    from benchmarks.items import CONTESTS as ALL

    settings, name, way = Settings.from_json(words[0]), words[1], words[2]
    do = ALL[name](settings).ways[way]
    reset_peak_memory(settings.place)
    do()
    sys.stdout.write(f"{peak_memory_bytes(settings.place)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
