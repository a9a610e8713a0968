"""The list above a table in Markdown: what was run, on which data and model, under which rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kebench.leaderboard import printed
from kebench.leaderboard.columns import not_of_version_1
from kebench.leaderboard.escape import markdown
from kebench.leaderboard.settings import in_words
from kebench.leaderboard.words import distinct, precision_in_words
from kebench.scoring.record import RunRecord, Setting
from kebench.scoring.regimes import FINAL, IMMEDIATE, edits_made, edits_of_a_stream

_NOT_EDITED = {
    "no paraphrase the base model agrees on": "have no paraphrase that the base model answers alike",
    "no paraphrase": "have no paraphrase",
    "no alternative answer": "have no other answer that could be asked for",
    "already right": "are answered rightly already",
}
"""Why a question cannot be edited (`kebench.running.cases`) → how a table says it."""


def what_was_run(rows: Sequence[RunRecord], apart: Sequence[str]) -> str:
    """The list, as Markdown.

    Args:
        rows: of one table.
        apart: the fields in which the setting differs from others whose tables have the same name.
    """
    setting, scores = rows[0].setting, rows[0].scores
    facts = {
        "Pack": f"{markdown(setting.pack)}, sha256 {markdown(setting.pack_sha256[:12])}",
        "Model": f"{markdown(setting.model)}, sha256 {markdown(setting.model_fingerprint[:12])}",
        "Protocol": f"{markdown(scores.protocol.name)}: {in_words(scores.protocol)}",
        "Edits": f"{distinct(str(row.scores.edits) for row in rows)}; "
        f"no-ops: {distinct(str(row.scores.no_ops) for row in rows)}; with "
        f"paraphrases: {distinct(str(row.scores.edits_with_paraphrases) for row in rows)}; "
        f"sha256 {markdown(setting.edits_sha256[:12])}",
        "Asked": "" if scores.time == FINAL else _asked(scores.time),
        "Can be edited": _editable(rows[0].base),
        "Split": "" if setting.split == "test" else markdown(setting.split),
        "Precision": precision_in_words(setting),
        "Time limit of an edit": "" if setting.edit_timeout is None else f"{setting.edit_timeout:g} s",
        "Targets": markdown(setting.targets),
        "Regime": markdown(_regime_in_words(setting.regime)),
        "Retain": markdown(setting.retain),
        "Seed": str(setting.seed) + _seed_of_samples(setting),
        "Base model": _base_facts(rows),
        "Scores": f"version {scores.protocol.scoring}, defined in docs/scores.md"
        if not_of_version_1(rows)
        else "",
        "Setting": setting.key,
    }
    if apart:
        facts["Not to be compared with the tables of the same name"] = (
            f"apart by {markdown(', '.join(apart))}"
        )
    return "".join(f"- {name}: {text}\n" for name, text in facts.items() if text)


def _regime_in_words(regime: str) -> str:
    """How the edits follow each other in a model; the regime alone where it is unknown."""
    n = edits_of_a_stream(regime)
    if regime == "single":
        return "single, every edit starts from the base model"
    if regime.startswith("batch(") and n > 1:
        return f"{regime}, {n} edits at once are put into the base model"
    if regime.startswith("sequential(") and n > 1:
        return f"{regime}, {n} edits follow each other in one model"
    return regime


def _asked(time: str) -> str:
    """When the questions were asked, in words."""
    if time == IMMEDIATE:
        return "the questions of each edit right after its batch of edits"
    made = edits_made(time)
    if made is None:
        return markdown(time)
    return f"after {made} edit{'' if made == 1 else 's'} of a stream, the questions of all edits so far"


def _editable(base: Mapping[str, Any]) -> str:
    """How many test questions can be edited, and why the others cannot; empty where nobody counted."""
    set_aside = base.get("set_aside")
    if "editable" not in base or not isinstance(set_aside, Mapping):
        return ""
    others = [f"{count} {_NOT_EDITED.get(reason, f'({reason})')}" for reason, count in set_aside.items()]
    why = f"; of the others, {', '.join(others)}" if others else ""
    # Not base["test_questions"]: under decao2021 that is the number of editable ones alone.
    return markdown(f"{base['editable']} of {base['editable'] + sum(set_aside.values())} questions{why}")


def _seed_of_samples(setting: Setting) -> str:
    """The seed of the retain samples; empty in records that do not tell it apart."""
    return "" if setting.retain_seed is None else f" (of the retain samples: {setting.retain_seed})"


def _base_facts(rows: Sequence[RunRecord]) -> str:
    """The facts about the base model in the order of the records; each version of one that rows dispute."""
    found: dict[str, dict[str, list[str]]] = {}  # fact → what it is → the editors whose record says so
    for row in rows:
        for name, text in _flat(row.base):
            found.setdefault(name, {}).setdefault(text, []).append(row.editor)
    return markdown(
        "; ".join(
            f"{name.replace('_', ' ')} {next(iter(said))}"
            if len(said) == 1
            else f"{name.replace('_', ' ')} "
            + ", ".join(f"{text} ({', '.join(editors)})" for text, editors in said.items())
            for name, said in found.items()
        )
    )


def _flat(facts: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    """The facts as names and texts; those of a mapping within a mapping have both names."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}: ")
        else:
            yield f"{above}{name}", printed.fact(name, value)
