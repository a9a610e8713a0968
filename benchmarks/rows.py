"""(a) Measures the time of a row with many edits in force at once, compared with a row of the base model."""

from dataclasses import replace
from functools import partial

from benchmarks.floor import forward_operations
from benchmarks.lines import Line, Target
from benchmarks.session import Contests, Session
from benchmarks.settings import Settings
from benchmarks.timing import Contest, timed
from benchmarks.worlds import World, base_size, cut, mini
from kebench.edits.versions import Versions

EDITS = (1, 8, 64)
TOKENS = 16
TARGET = Target("≤", cpu=1.15, cuda=1.25)


def contest(world: World, settings: Settings) -> Contest:
    """Compares the same rows with 64, 8 and 1 edits in force, and with the base model.

    Each row and each edited prompt has 16 tokens, and all rows differ. A generative model checks a short
    answer in one teacher-forced pass; a classifier answers.
    """
    model = cut(world.model, TOKENS)
    texts, n = world.prompts, len(world.prompts)
    places = range(settings.rows)
    prompts = [f"{i} {texts[i % n]} {texts[(i + 1) % n]} {texts[(i + 2) % n]}" for i in places]
    assert {len(ids) for ids in model.prompt_ids(prompts)} == {TOKENS}
    answers = [world.answers[i % n] for i in places]
    edits = [replace(edit, prompt=prompts[i % len(places)]) for i, edit in enumerate(world.edits(max(EDITS)))]
    updates = world.updates(edits, model)
    models = {count: Versions(model, updates[:count]) for count in EDITS}

    def under(count: int) -> float:
        edited = models[count]
        which = [index % count for index in range(len(prompts))]
        if model.ends:
            return timed(settings.place, lambda: edited.prefers(prompts, which, answers))
        return timed(settings.place, lambda: edited.answer(prompts, which, answers))

    def base() -> float:
        if model.ends:
            return timed(settings.place, lambda: model.prefers(prompts, answers))
        return timed(settings.place, lambda: model.answer(prompts))

    ways = {_way(count): partial(under, count) for count in reversed(EDITS)} | {"base": base}
    return Contest(ways, forward_operations(model, prompts, answers), dict.fromkeys(ways, len(prompts)))


CONTESTS: Contests = {
    "a BERT-base": lambda settings: contest(base_size("fever", settings.fever_rows, settings), settings),
    "a BART-base": lambda settings: contest(base_size("zsre", settings.zsre_rows, settings), settings),
    "a bert-mini": lambda settings: contest(mini("fever", settings), settings),
    "a bart-mini": lambda settings: contest(mini("zsre", settings), settings),
}


def lines(session: Session) -> list[Line]:
    """Returns one line for each model and number of edits."""
    return [
        session.line(
            name,
            f": a row under {_way(count)} / of the base model",
            (_way(count), "base"),
            takes=_way(count),
            unit="row",
            target=TARGET if name.endswith("-base") else None,
        )
        for name in CONTESTS
        for count in EDITS
    ]


def _way(count: int) -> str:
    return f"{count} edits" if count > 1 else "1 edit"
