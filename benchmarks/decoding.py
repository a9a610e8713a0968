"""(g) Measures the time of decoded answers, compared with one teacher-forced pass over the guesses."""

from dataclasses import dataclass

from benchmarks.floor import forward_operations
from benchmarks.lines import Line, Target
from benchmarks.session import Contests, Session
from benchmarks.settings import Settings
from benchmarks.timing import Contest, timed
from benchmarks.worlds import OTHER, World, base_size, mini
from kebench.edits.versions import Versions

EDITS = 8
FREE, FORCED = "free answers", "one pass"
WRONG_EVERY = 25
"""With random weights, edits change no answer and all guesses are right. So each 25th guess is made wrong."""
TARGET = Target("≤", cpu=1.3, cuda=1.5)


@dataclass(frozen=True)
class Questions:
    """The arguments of one call of `Versions.answer`: prompts, the edit in force for each, and guesses."""

    prompts: list[str]
    which: list[int]
    guesses: list[str]


def asked(world: World) -> Questions:
    """Returns the questions that a run asks for some edits: x, its paraphrases and its retain questions."""
    rows: list[tuple[str, int, str]] = []
    for index, case in enumerate(world.plan.cases[:EDITS]):
        rows += [(text, index, case.edit.target) for text in (case.edit.prompt, *case.paraphrases)]
        sample = world.plan.base[: world.plan.inputs.task.retain_size]
        rows += [(row.prompt, index, row.answer) for row in sample]
    return Questions(*map(list, zip(*rows, strict=True)))


def some_wrong(world: World) -> Questions:
    """Returns all test rows for each edit. Each `WRONG_EVERY`-th guess is wrong."""
    rows = [(row, index) for index in range(EDITS) for row in world.plan.base]
    guesses = [OTHER if place % WRONG_EVERY == 0 else row.answer for place, (row, _) in enumerate(rows)]
    return Questions([row.prompt for row, _ in rows], [index for _, index in rows], guesses)


def contest(world: World, questions: Questions, settings: Settings) -> Contest:
    """Compares decoded answers, for which guesses are used, with the one pass that checks the guesses."""
    edited = Versions(world.model, world.updates(world.edits(EDITS), world.model))
    said: list[str] = []

    def free() -> float:
        said.clear()
        return timed(
            settings.place,
            lambda: said.extend(edited.answer(questions.prompts, questions.which, questions.guesses)),
        )

    def forced() -> float:
        return timed(
            settings.place,
            lambda: edited.prefers(questions.prompts, questions.which, questions.guesses),
        )

    def check() -> str:
        right = sum(answer == guess for answer, guess in zip(said, questions.guesses, strict=True))
        return f"{right / len(said):.1%} of the guesses are the answer"

    operations = forward_operations(world.model, questions.prompts, questions.guesses)
    units = {FREE: len(questions.prompts), FORCED: len(questions.prompts)}
    return Contest({FREE: free, FORCED: forced}, operations, units, check)


def _mini(settings: Settings) -> Contest:
    world = mini("zsre", settings)
    return contest(world, asked(world), settings)


def _base_size(settings: Settings) -> Contest:
    world = base_size("zsre", settings.zsre_rows, settings)
    return contest(world, some_wrong(world), settings)


CONTESTS: Contests = {"g bart-mini": _mini, "g BART-base": _base_size}


def lines(session: Session) -> list[Line]:
    """Returns one line for each model."""
    what = ": free answers / one teacher-forced pass"
    return [
        session.line(name, what, (FREE, FORCED), takes=FREE, unit="row", target=TARGET) for name in CONTESTS
    ]
