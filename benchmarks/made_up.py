"""Makes up the rows of a run, and scores them in a process that loads no model and no torch."""

import json
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from kebench.scoring.answers import BaseAnswer, EditAnswers, ParaphraseAnswer
from kebench.scoring.protocols import STRATA, STRICT
from kebench.scoring.record import Setting
from kebench.scoring.rows import BASE, ROWS, RowsTally, Trial, read_base, read_trials, to_line
from kebench.scoring.statistics import draw_sample

QUESTIONS = 2000
RETAIN = 100
KEY = "made up"


def base_answers() -> list[BaseAnswer]:
    """Returns a test set that is made up."""
    return [
        BaseAnswer(
            f"q{i}", f"fact {i}", f"Where was person {i} born?", (f"city {i}",), f"city {i}", i % STRATA
        )
        for i in range(QUESTIONS)
    ]


def trials(n_edits: int, *, is_stream: bool) -> Iterator[Trial]:
    """Makes up the rows of edits, one in ten of whose retain questions gets another answer."""
    base = base_answers()
    strata = tuple(row.stratum for row in base)
    facts = tuple(f"edited fact {i}" for i in range(n_edits)) if is_stream else ()
    for i in range(n_edits):
        generator = random.Random(i)
        answer = "Rome" if generator.random() < 0.9 else "Oslo"
        places = draw_sample(strata, RETAIN, seed=0, edit_id=f"e{i}")
        answers = EditAnswers(
            id=f"e{i}",
            fact=f"edited fact {i}",
            prompt=f"Where was the edited person {i} born?",
            prediction="Oslo",
            target="Rome",
            answer=answer,
            forced=answer == "Rome",
            paraphrases=tuple(
                ParaphraseAnswer(f"Person {i}: wording {n}", generator.choice((answer, "Oslo")))
                for n in range(3)
            ),
            sample={base[p].id: base[p].answer if generator.random() < 0.9 else "Rome" for p in places},
            also_edited=facts,
        )
        yield Trial(answers, generator.random(), generator.random())


def write(folder: Path, n_edits: int, *, is_stream: bool) -> None:
    """Writes the base answers and the rows of a run that was not made."""
    rows = [row.to_json() for row in base_answers()]
    (folder / BASE).write_text(json.dumps(rows), encoding="utf-8")
    before: Sequence[str] = ()
    with (folder / ROWS).open("w", encoding="utf-8") as file:
        for trial in trials(n_edits, is_stream=is_stream):
            file.write(to_line(trial, KEY, before))
            before = trial.answers.also_edited


def setting(regime: str) -> Setting:
    """Returns the setting of a run that was not made."""
    return Setting(
        task="made up", task_version=1, pack="", pack_sha256="", model="", model_fingerprint="",
        protocol=STRICT.to_json(), targets="alternative", regime=regime, retain=f"sample of {RETAIN}", seed=0,
        edits=0, edits_sha256="", test_sha256="",
    )  # fmt: skip


def main(words: Sequence[str]) -> None:
    """Scores the rows of a folder; prints the peak memory in bytes, and the CPU seconds."""
    folder, regime = Path(words[0]), words[1]
    started = time.process_time()
    tally = RowsTally(read_base(folder), setting(regime))
    for trial in read_trials(folder / ROWS, KEY):
        tally.add(trial)
    tally.scores()
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    sys.stdout.write(f"{peak} {seconds}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
