"""Which records may share a table, and what was run, in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from kebench.leaderboard.escape import slug
from kebench.scoring.protocols import Equality, Protocol
from kebench.scoring.record import RunRecord, Setting

_EQUAL: Mapping[Equality, str] = {
    "normalised": "once case, articles, punctuation and spacing are normalised",
    "decao2021": "once normalised as De Cao et al. (2021) do",
    "raw": "as raw strings",
    "label": "as labels",
}


def differences(a: Setting, b: Setting) -> list[str]:
    """The fields in which two settings differ, in their order; a protocol's as `protocol.<field>`."""
    first, second = (
        {**asdict(setting), **{f"protocol.{name}": choice for name, choice in setting.protocol.items()}}
        for setting in (a, b)
    )
    names = [name for name in first if name != "protocol"]
    names += [name for name in second if name not in first]
    missing = object()
    return [name for name in names if first.get(name, missing) != second.get(name, missing)]


def by_setting(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """The records of each table: one setting each, rows in their order, tables by name and then by key."""
    tables: defaultdict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        tables[record.setting.key].append(record)
    return [
        sorted(rows, key=lambda row: (row.is_control, row.editor.casefold(), row.editor))
        for _, rows in sorted(tables.items(), key=lambda item: (base_name(item[1][0].setting), item[0]))
    ]


def table_names(settings: Sequence[Setting]) -> dict[str, str]:
    """Setting key → file name without suffix, for the tables of one task.

    `<model>--<pack>--<protocol>`, and the key behind it where that alone would name several tables.
    """
    common = Counter(base_name(setting).casefold() for setting in settings)
    return {
        setting.key: base_name(setting)
        if common[base_name(setting).casefold()] == 1
        else f"{base_name(setting)}--{setting.key}"
        for setting in settings
    }


def apart_by(setting: Setting, others: Sequence[Setting]) -> list[str]:
    """In what a setting differs from the others of the same model, pack and protocol names."""
    namesakes = [other for other in others if base_name(other).casefold() == base_name(setting).casefold()]
    return list(dict.fromkeys(name for other in namesakes for name in differences(setting, other)))


def headline(protocol: Protocol) -> tuple[str, str]:
    """What the headline equivalence compares with, and what the other one does."""
    names = ("target", "own answer")
    return names if protocol.headline_equivalence == "target" else names[::-1]


def in_words(protocol: Protocol) -> str:
    """The choices a reader must know before comparing with a number from elsewhere."""
    compared = (
        "the target" if headline(protocol)[0] == "target" else "the edited model's own answer to the prompt"
    )
    again = {"left_out": "left out", "kept": "kept"}[protocol.paraphrases_equal_to_prompt]
    left_out = {
        "fact": "the edited record, every question about its fact, and every one worded like the prompt or a "
        "paraphrase of it",
        "row": "the edited record only",
    }[protocol.left_out_of_retain]
    made_of = {
        "own": "",
        "stored": "; where a pack stores its authors' predictions, alternatives and filtered paraphrases, "
        "they are taken as they are",
    }[protocol.base_answers]
    over = {"all": "", "editable": "retain questions are those that could be edited themselves; "}[
        protocol.retain_over
    ]
    counted = {
        "no_ops": "",
        "nothing": "; edits that ask for what the base model says already count too",
    }[protocol.left_out_of_success]
    return (
        f"equivalence compares the answer to each paraphrase with {compared}; paraphrases that are the "
        f"prompt again are {again}; {over}left out of the retain questions: {left_out}; "
        f"{_decoding(protocol)}; {_equalities(protocol)}{counted}{made_of}{_departs(protocol)}"
    )


def _departs(protocol: Protocol) -> str:
    """What a table must not leave unsaid of a protocol that is named after others' code."""
    if protocol.name != "decao2021":
        return ""
    if protocol.base_answers == "own":  # so it was before the fields that came with it
        return "; an earlier reading of that code: docs/decao2021.md says what was not as in it"
    return "; docs/decao2021.md says what is not as in that code"


def _decoding(protocol: Protocol) -> str:
    if protocol.success_equality == "label":
        return "answers are labels, nothing is decoded"
    return "free greedy decoding" if protocol.beams == 1 else f"free decoding with {protocol.beams} beams"


def _equalities(protocol: Protocol) -> str:
    """Which answers are compared how, those compared alike together."""
    compared: defaultdict[Equality, list[str]] = defaultdict(list)
    for score in ("success", "equivalence", "retain", "gold"):
        compared[getattr(protocol, f"{score}_equality")].append(score)
    if len(compared) == 1:
        return f"answers are compared {_EQUAL[next(iter(compared))]}"
    return ", ".join(f"{' and '.join(scores)} compared {_EQUAL[how]}" for how, scores in compared.items())


def base_name(setting: Setting) -> str:
    """`<model>--<pack>--<protocol>`; several settings may have the same."""
    parts = (setting.model, setting.pack, str(setting.protocol.get("name", "")))
    return "--".join(slug(part) for part in parts)
