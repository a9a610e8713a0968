"""Plans a run: its setting, its edits, and the questions after each edit."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kebench.errors import BadSetting
from kebench.packs.formats import gold_answers
from kebench.running.base_answers import AnsweredRecord
from kebench.running.cases import Case
from kebench.running.preparation import RunInputs
from kebench.running.settings import RunSettings
from kebench.scoring.answers import BaseAnswer, Question
from kebench.scoring.record import Setting
from kebench.scoring.regimes import Regime
from kebench.scoring.rows import digest_of
from kebench.scoring.statistics import draw_sample, strata
from kebench.task import Task


@dataclass(frozen=True)
class Plan:
    """What is the same for every editor of a run.

    Attributes:
        inputs: the task, the pack, the model and the base answers.
        setting: the setting; numbers of the same setting can be compared.
        cases: the edits in their seeded order. With a precision, the run may need only the first of them.
        base: the test set with the base answers, for the scorer.
        retain_size: the number of test questions after each edit.
        retain_seed: the seed for their choice.
        regime: how the edits follow each other.
        fail_fast: True if the first failed edit ends the run.
    """

    inputs: RunInputs
    setting: Setting
    cases: tuple[Case, ...]
    base: tuple[BaseAnswer, ...]
    retain_size: int
    retain_seed: int
    regime: Regime
    fail_fast: bool = False

    @staticmethod
    def of(inputs: RunInputs, settings: RunSettings) -> "Plan":
        """Returns the plan for some settings."""
        task: Task = inputs.task
        # The task limits the number of edits, but not with a precision, which may need all edits of the pack.
        by_default = task.edits if settings.precision is None else 0
        limit = by_default if settings.limit is None else settings.limit
        regime = settings.as_regime()
        if regime.name == "sequential" and settings.limit is None:
            limit = regime.edits  # one stream
        cases = inputs.cases.cases[: limit or None]
        cases = cases[: len(cases) - len(cases) % regime.edits]
        if not cases:
            raise BadSetting(
                f"regime {regime}: found {len(inputs.cases.cases[: limit or None])} edits, wanted"
                f" {regime.edits} or more"
            )
        size = task.retain_size if settings.retain is None else settings.retain
        exact = size == "exact" or size >= len(inputs.test)
        places = strata([record.margin for record in inputs.test])
        base = tuple(
            BaseAnswer(r.id, r.fact, r.prompt, r.gold, r.said, stratum, r.stored)
            for r, stratum in zip(inputs.test, places, strict=True)
        )
        setting = Setting(
            task=task.name,
            task_version=task.version,
            pack=inputs.pack.name,
            pack_sha256=inputs.pack.sha256,
            model=inputs.model.name,
            model_fingerprint=inputs.identity,
            protocol=inputs.protocol.to_json(),
            targets=inputs.targets,
            regime=str(regime),
            retain="exact" if exact else f"sample of {size}",
            seed=inputs.seed,
            edits=len(cases),
            edits_sha256=digest_of(
                {
                    "edit": asdict(case.edit),
                    "fact": case.fact,
                    "paraphrases": case.paraphrases,
                    **({"further": [_named(question) for question in case.further]} if case.further else {}),
                }
                for case in cases
            ),
            test_sha256=digest_of(row.to_json() for row in base),
            precision=None if settings.precision is None else float(settings.precision),  # 1 is 1.0
            split=inputs.split,
            retain_seed=settings.retain_seed,
            ask_after=regime.ask_after,
            edit_timeout=None if settings.edit_timeout is None else float(settings.edit_timeout),
        )
        size = len(base) if exact else int(size)
        return Plan(inputs, setting, cases, base, size, settings.retain_seed, regime, settings.fail_fast)

    def sample(self, case: Case) -> list[BaseAnswer]:
        """Returns the test questions after one edit, which are the same for every editor."""
        places = tuple(row.stratum for row in self.base)
        drawn = draw_sample(places, self.retain_size, seed=self.retain_seed, edit_id=case.edit.id)
        return [self.base[index] for index in drawn]

    def prompts(self) -> tuple[str, ...]:
        """Returns the prompts of the test set, the edits, and the questions that belong to the edits."""
        found = dict.fromkeys(row.prompt for row in self.base)
        for case in self.cases:
            further = [question.prompt for question in case.further]
            found |= dict.fromkeys((case.edit.prompt, *case.paraphrases, *further))
        return tuple(found)

    def base_facts(self) -> dict[str, Any]:
        """Returns facts about the base model's answers, for the record."""
        test: Sequence[AnsweredRecord] = self.inputs.test
        cases = self.inputs.cases
        sources = self.inputs.pack.lock.origin
        named = ((source.format, gold_answers(source.format, source.answers_are)) for source in sources)
        gold = {format: field for format, field in named if field}
        stored = [record for record in test if record.stored is not None]
        stale = sum(record.stored != record.said for record in stored)
        return {
            "test_questions": len(test),
            "test_accuracy": sum(record.correct for record in test) / len(test),
            "editable": len(cases.cases),
            "set_aside": dict(cases.set_aside),
            "paraphrases": cases.paraphrases,
            "paraphrases_set_aside": cases.disagreeing,
            **({"gold_answers": gold} if gold else {}),
            **({"stored_predictions": len(stored), "that_the_model_does_not_give": stale} if stored else {}),
        }


def _named(question: Question) -> dict[str, Any]:
    """Returns a question as JSON, without its tags, because no question of a case has any."""
    return {name: value for name, value in asdict(question).items() if name != "tags"}
