"""Which records may share a table, how tables are called, and protocols in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace

from kebench.leaderboard.escape import distinct_slug, slug
from kebench.scoring.protocols import Equality, Protocol
from kebench.scoring.record import RunRecord, Setting
from kebench.scoring.regimes import FINAL, IMMEDIATE, edits_made, in_order

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
    """The rows of each table: records of one setting, with their scores at one time.

    A record with scores at several times is a row in several tables. Rows stand by name with the controls
    last; tables stand by name, then by key, then by time.
    """
    tables: defaultdict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        for each in map(record.at, record.all_times):
            tables[record.setting.key, each.scores.time].append(replace(each, times={}))
    names = {record.setting.key: base_name(record.setting) for record in records}
    times = in_order({time for _, time in tables})
    in_place = sorted(tables, key=lambda each: (names[each[0]], each[0], times.index(each[1])))
    return [
        sorted(tables[each], key=lambda row: (row.is_control, row.editor.casefold(), row.editor))
        for each in in_place
    ]


def table_names(settings: Iterable[Setting]) -> dict[str, str]:
    """Setting key → file name without suffix, for the tables of one task.

    The name is `<model>--<pack>--<protocol>`; the key follows where several settings have the same name.
    """
    by_key = {setting.key: setting for setting in settings}
    common = Counter(base_name(setting).casefold() for setting in by_key.values())
    return {
        key: base_name(setting)
        if common[base_name(setting).casefold()] == 1
        else f"{base_name(setting)}--{key}"
        for key, setting in by_key.items()
    }


def table_name(name: str, time: str) -> str:
    """The file name of a setting's table at one time: `<name>`, or `<name>--after-10`."""
    if time == FINAL:
        return name
    if time == IMMEDIATE:
        return f"{name}--{IMMEDIATE}"
    made = edits_made(time)
    return f"{name}--time-{distinct_slug(time)}" if made is None else f"{name}--after-{made}"


class Neighbours:
    """The settings of all records of a task, as each of its tables must know them.

    Attributes:
        by_key: setting key → the records of that setting.
        names: setting key → the name of its table's file, without suffix.
    """

    def __init__(self, records: Iterable[RunRecord]) -> None:
        self.by_key: defaultdict[str, list[RunRecord]] = defaultdict(list)
        for record in records:
            self.by_key[record.setting.key].append(record)
        settings = [rows[0].setting for _, rows in sorted(self.by_key.items())]
        self.names = table_names(settings)
        self._namesakes: defaultdict[str, list[Setting]] = defaultdict(list)
        for setting in settings:
            self._namesakes[base_name(setting).casefold()].append(setting)
        self._varied = {name: _varied(namesakes) for name, namesakes in self._namesakes.items()}

    def apart_by(self, setting: Setting) -> list[str]:
        """The fields in which a setting differs from others with the same model, pack and protocol."""
        name = base_name(setting).casefold()
        found: dict[str, None] = {}
        for other in self._namesakes[name]:
            if len(found) == len(self._varied[name]):  # so that the work grows linearly with the settings
                break
            found |= dict.fromkeys(differences(setting, other))
        return list(found)


def _varied(settings: Sequence[Setting]) -> set[str]:
    """The fields in which some of the settings differ from the first, and so each of them from another."""
    return {name for other in settings[1:] for name in differences(settings[0], other)}


def headline(protocol: Protocol) -> tuple[str, str]:
    """What the headline equivalence compares with, and what the other equivalence compares with."""
    names = ("target", "own answer")
    return names if protocol.headline_equivalence == "target" else names[::-1]


def in_words(protocol: Protocol) -> str:
    """The choices that a reader must know before comparing with numbers from elsewhere."""
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
    """Where a table's reader finds how the protocol differs from the code that it is named after."""
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
    """By which rule the answers of each score are compared; scores with the same rule together."""
    compared: defaultdict[Equality, list[str]] = defaultdict(list)
    for score in ("success", "equivalence", "retain", "gold"):
        compared[getattr(protocol, f"{score}_equality")].append(score)
    if len(compared) == 1:
        return f"answers are compared {_EQUAL[next(iter(compared))]}"
    return ", ".join(f"{' and '.join(scores)} compared {_EQUAL[how]}" for how, scores in compared.items())


def base_name(setting: Setting) -> str:
    """`<model>--<pack>--<protocol>`; several settings may have the same name."""
    parts = (setting.model, setting.pack, str(setting.protocol.get("name", "")))
    return "--".join(slug(part) for part in parts)
