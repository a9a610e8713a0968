"""Records of one task as Markdown, CSV and plain text. Text in, text out; `folder` reads and writes files."""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from kebench.leaderboard import printed
from kebench.leaderboard.escape import csv_cell, markdown, plain
from kebench.leaderboard.settings import apart_by, by_setting, headline, in_words, table_names
from kebench.leaderboard.tuning import how_tuned, tuned_by, tunings_of
from kebench.leaderboard.tuning import in_words as tuned_in_words
from kebench.scoring.record import RunRecord, Setting
from kebench.scoring.statistics import Estimate, least_rate
from kebench.scoring.stopping import half_width
from kebench.scoring.tuning import Tuning

MARK = "<!-- Made by `kebench leaderboard` from records/. Changes here are lost. -->\n"
"""How a Markdown table that was made is told from one that was written."""

ESTIMATES = (
    "success_rate",
    "success_rate_teacher_forced",
    "inflation_gap",
    "equivalence_accuracy",
    "equivalence_target",
    "equivalence_own",
    "equivalence_seen_wordings",
    "equivalence_held_out_wordings",
    "held_out_success_rate",
    "held_out_equivalence",
    "held_out_retain_accuracy",
    "retain_accuracy",
    "retain_accuracy_gold",
    "performance_deterioration",
    "performance_deterioration_elsewhere",
    "accuracy_before",
    "accuracy_after",
    "no_op_share",
)
"""The scores of the CSV, in its order; `equivalence_accuracy` is again the one the protocol calls so."""

_REGIMES = {"single": "single, every edit starts from the base model"}
_WIDTH = 100
_HOW_TO_READ = (
    "Where all facts scored the same, resampling gives no width; there the interval supposes that of n facts "
    "a share of 0.05^(1/n) scores so, the least at 95 % confidence, and the others anything. A deterioration "
    "below the smallest detectable one, 2.8 standard errors of the bootstrap, is more often missed than one "
    "time in five (two-sided at 95 %); a dash there says that the standard error is unknown. Deterioration "
    "is over the whole test set and counts the change that was asked for; elsewhere, it is over the retain "
    "questions."
)
_HELD_OUT = (
    "What no editor was trained on: held-out wordings of paraphrases (like seen wordings, of the edits whose "
    "relation is in training), and held-out relations, whose edits are part of the table above too; every "
    "equivalence here compares with the target."
)


def markdown_table(
    records: Sequence[RunRecord], others: Sequence[RunRecord] = (), tunings: Sequence[Tuning] = ()
) -> str:
    """A file with the table of one setting.

    Args:
        records: of one setting.
        others: records of the task's other settings, to say what keeps those of the same name apart.
        tunings: of the task; the column Tuned says which rows were tuned on the table's pack and model.
    """
    return f"{MARK}\n{_section(records, others, tunings, '#')}\n{_footer(records)}"


def markdown_page(records: Sequence[RunRecord], tunings: Sequence[Tuning] = ()) -> str:
    """A file with all tables of one task."""
    task = markdown(records[0].setting.task)
    sections = "\n".join(_section(rows, records, tunings, "##", linked=True) for rows in by_setting(records))
    return f"{MARK}\n# {task}\n\n{sections}\n## How to read the tables\n\n{_footer(records)}"


def csv_table(records: Sequence[RunRecord], tunings: Sequence[Tuning] = ()) -> str:
    """The table of one setting with everything as it was measured: fractions, counts, seconds, bytes.

    Nothing measured is an empty cell.
    """
    lines = [_csv_row(record, tunings) for rows in by_setting(records) for record in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def table_text(records: Sequence[RunRecord]) -> str:
    """Plain text for a terminal, in percent: a table for each setting, intervals below their numbers."""
    return "\n".join(_text(rows) for rows in by_setting(records))


# Markdown --------------------------------------------------------------------------------------------


def _section(
    records: Sequence[RunRecord],
    others: Sequence[RunRecord],
    tunings: Sequence[Tuning],
    level: str,
    *,
    linked: bool = False,
) -> str:
    """A heading, what was run, the table, and the edits that failed."""
    (rows,) = by_setting(records)
    setting, protocol = rows[0].setting, rows[0].scores.protocol
    apart = apart_by(setting, [other[0].setting for other in by_setting(others)])
    parts = [
        f"{level} {markdown(setting.task)} version {setting.task_version}: {markdown(setting.model)} on "
        f"{markdown(setting.pack)}, {markdown(protocol.name)} protocol"
        f"{f' ({setting.key})' if apart else ''}\n",
        _what_was_run(rows, apart),
    ]
    here = tunings_of(setting, tunings)
    parts += [
        _pipe_table(
            rows,
            ["Editor", "Tuned", *_headings(rows[0])[1:]],
            lambda row: [tuned_in_words(row, here), *_cells(row)],
        ),
        how_tuned(rows, here),
    ]
    if _holds_out(rows):
        parts += [f"{_HELD_OUT}\n", _pipe_table(rows, _HELD_OUT_HEADINGS, _held_out_cells)]
    failed = [row for row in rows if row.scores.n_failures]
    if unreached := _unreached(rows, markdown):
        parts.append(f"{unreached}\n")
    if failed:
        parts.append("Failed edits, wrong in every score above:\n")
        parts.append("".join(f"- {markdown(row.editor)}: {markdown(_failures(row))}\n" for row in failed))
    if linked:
        name = _names([*others, *records])[setting.key]
        parts.append(f"This table alone: [Markdown]({name}.md), [CSV]({name}.csv).\n")
    return "\n".join(parts)


def _what_was_run(rows: Sequence[RunRecord], apart: Sequence[str]) -> str:
    setting, scores = rows[0].setting, rows[0].scores
    facts = {
        "Pack": f"{markdown(setting.pack)}, sha256 {markdown(setting.pack_sha256[:12])}",
        "Model": f"{markdown(setting.model)}, sha256 {markdown(setting.model_fingerprint[:12])}",
        "Protocol": f"{markdown(scores.protocol.name)}: {in_words(scores.protocol)}",
        "Edits": f"{_distinct(str(row.scores.edits) for row in rows)}; "
        f"no-ops: {_distinct(str(row.scores.no_ops) for row in rows)}; with "
        f"paraphrases: {_distinct(str(row.scores.edits_with_paraphrases) for row in rows)}; "
        f"sha256 {markdown(setting.edits_sha256[:12])}",
        "Can be edited": _editable(rows[0].base),
        "Split": "" if setting.split == "test" else markdown(setting.split),
        "Precision": _precision(setting),
        "Targets": markdown(setting.targets),
        "Regime": markdown(_REGIMES.get(setting.regime, setting.regime)),
        "Retain": markdown(setting.retain),
        "Seed": str(setting.seed) + _of_samples(setting),
        "Base model": _base_facts(rows),
        "Scores": "" if _first(rows) else f"version {scores.protocol.scoring}, defined in docs/scores.md",
        "Setting": setting.key,
    }
    if apart:
        facts["Not to be compared with the tables of the same name"] = (
            f"apart by {markdown(', '.join(apart))}"
        )
    return "".join(f"- {name}: {text}\n" for name, text in facts.items() if text)


_NOT_EDITED = {
    "no paraphrase the base model agrees on": "have no paraphrase that the base model answers alike",
    "no paraphrase": "have no paraphrase",
    "no alternative answer": "have no other answer that could be asked for",
    "already right": "are answered rightly already",
}
"""Why a question cannot be edited (`kebench.running.cases`), as a table says it."""


def _editable(base: Mapping[str, Any]) -> str:
    """How many of the test questions can be edited, and why the others cannot; empty where nobody counted."""
    set_aside = base.get("set_aside")
    if "editable" not in base or not isinstance(set_aside, Mapping):
        return ""
    others = [f"{count} {_NOT_EDITED.get(reason, f'({reason})')}" for reason, count in set_aside.items()]
    why = f"; of the others, {', '.join(others)}" if others else ""
    # Not base["test_questions"]: under decao2021 that is the editable ones alone.
    return markdown(f"{base['editable']} of {base['editable'] + sum(set_aside.values())} questions{why}")


def _first(rows: Sequence[RunRecord]) -> bool:
    """Whether the rows of one setting are of scoring version 1, which tells less."""
    return rows[0].scores.protocol.scoring == 1


def _of_samples(setting: Setting) -> str:
    """The seed of the samples, where it is told apart."""
    return "" if setting.retain_seed is None else f" (of the retain samples: {setting.retain_seed})"


def _precision(setting: Setting) -> str:
    """When edits stopped; empty where their number was fixed."""
    if setting.precision is None:
        return ""
    return f"edits until retain is known to ± {setting.precision:g} points, {setting.edits} at most"


def _unreached(rows: Sequence[RunRecord], harmless: Callable[[str], str]) -> str:
    """Which editors' retain is not known to the wanted precision, though all edits were made; or nothing."""
    found = [
        f"{harmless(row.editor)} (± {printed.percent(half_width(row.scores.retain_accuracy))})"
        for row in rows
        if (stopping := row.setting.stopping) and not stopping.reached(row.scores.retain_accuracy)
    ]
    if not found:
        return ""
    return f"Precision not reached after all {rows[0].setting.edits} edits: {', '.join(found)}."


def _base_facts(rows: Sequence[RunRecord]) -> str:
    """The facts in the order the records have them; one on which rows disagree is given for each."""
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
    """The facts as names and texts, mappings within mappings taken apart."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}: ")
        else:
            yield f"{above}{name}", printed.fact(name, value)


def _headings(record: RunRecord) -> list[str]:
    compared, otherwise = headline(record.scores.protocol)
    return [
        "Editor",
        "Success",
        "Teacher-forced success",
        "Inflation gap",
        f"Equivalence ({compared})",
        f"Other equivalence ({otherwise})",
        "Retain",
        "Retain vs gold",
        "Performance deterioration",
        *(() if _first([record]) else _DETERIORATION_HEADINGS),
        "No-ops",
        "Failures",
        "Edits",
        "Seconds per edit",
        "Peak memory",
    ]


_DETERIORATION_HEADINGS = ("Smallest detectable deterioration", "Deterioration elsewhere")
_HELD_OUT_HEADINGS = (
    "Editor",
    "Equivalence, seen wordings",
    "Equivalence, held-out wordings",
    "Held-out relations: edits",
    "their success",
    "their equivalence",
    "their retain",
)


def _pipe_table(
    rows: Sequence[RunRecord], headings: Sequence[str], cells: Callable[[RunRecord], Sequence[str]]
) -> str:
    """The editors' rows, then the controls' under a line that says so; each its name and its cells."""
    lines = [[markdown(row.editor), *cells(row)] for row in rows if not row.is_control]
    controls = [[f"{markdown(row.editor)} (control)", *cells(row)] for row in rows if row.is_control]
    if controls:
        lines += [["**Controls**", *[""] * (len(headings) - 1)], *controls]
    return _tabulated(lines, headings, "pipe") + "\n"


def _tabulated(lines: Sequence[Sequence[str]], headings: Sequence[str], look: str) -> str:
    return tabulate(
        lines,
        headers=headings,
        tablefmt=look,
        colalign=("left", *["right"] * (len(headings) - 1)),
        disable_numparse=True,
    )


def _cells(record: RunRecord) -> list[str]:
    scores = record.scores
    estimates = (
        scores.success_rate,
        scores.success_rate_teacher_forced,
        scores.inflation_gap,
        scores.equivalence_accuracy,
        _other_equivalence(record),
        scores.retain_accuracy,
        scores.retain_accuracy_gold,
        scores.performance_deterioration,
    )
    elsewhere = scores.performance_deterioration_elsewhere
    return [
        *(printed.with_interval(estimate) for estimate in estimates),
        *(
            ()
            if elsewhere is None
            else (
                printed.percent(scores.performance_deterioration.smallest_detectable),
                printed.with_interval(elsewhere),
            )
        ),
        str(scores.no_ops),
        str(scores.n_failures),
        str(scores.edits),
        printed.seconds(record.cost.edit_seconds_p50),
        printed.memory(record.cost.peak_memory_bytes),
    ]


def _held_out_cells(record: RunRecord) -> list[str]:
    wordings, relations = _by_wording(record), _of_held_out_relations(record)
    return [
        *(printed.with_interval(estimate) for estimate in wordings),
        str(record.scores.held_out_edits),
        *(printed.with_interval(estimate) for estimate in relations),
    ]


def _holds_out(rows: Sequence[RunRecord]) -> bool:
    """Whether anything was kept from every editor's training, and measured."""
    return any(row.scores.held_out_edits or row.scores.equivalence_held_out_wordings.edits for row in rows)


def _by_wording(record: RunRecord) -> tuple[Estimate, ...]:
    return record.scores.equivalence_seen_wordings, record.scores.equivalence_held_out_wordings


def _of_held_out_relations(record: RunRecord) -> tuple[Estimate, ...]:
    scores = record.scores
    return scores.held_out_success_rate, scores.held_out_equivalence, scores.held_out_retain_accuracy


def _other_equivalence(record: RunRecord) -> Estimate:
    scores = record.scores
    if scores.protocol.headline_equivalence == "target":
        return scores.equivalence_own
    return scores.equivalence_target


def _failures(record: RunRecord) -> str:
    return ", ".join(f"{reason}: {n}" for reason, n in sorted(record.scores.failures.items()))


def _footer(records: Sequence[RunRecord]) -> str:
    first = [row for row in records if _first([row])]
    later = [row for row in records if not _first([row])]
    counted = any(row.scores.protocol.left_out_of_success == "nothing" for row in records)
    but = " (but counts them under decao2021)" if counted else ""
    lines = [
        "Scores, gap and deterioration are in percent, `value [low, high]`; the seconds are the median over "
        f"edits; {printed.NOTHING} stands where nothing was measured. Success leaves no-ops out{but}; failed "
        "edits count as wrong everywhere.",
        *([_intervals_of_first(first)] if first else []),
        *([f"Intervals: {_made(later)}. {_HOW_TO_READ}"] if later else []),
        "Rows stand by the editor's name, which ranks nothing; controls, whose score is known beforehand, "
        "stand below. Tables are made from `records/` by `kebench leaderboard`, and "
        "`kebench leaderboard --check` says whether they still agree.",
    ]
    return "\n\n".join(lines) + "\n"


def _made(records: Sequence[RunRecord]) -> str:
    return markdown(
        _distinct(
            f"{row.scores.interval}, {row.scores.resamples} resamples, seed {row.scores.seed}"
            for row in records
        )
    )


def _intervals_of_first(records: Sequence[RunRecord]) -> str:
    """How to read the intervals of scoring version 1."""
    sizes = sorted({n for row in records for n in _measured(row) if n})
    bounds = "; ".join(f"n = {n}: {printed.percent(least_rate(n))} %" for n in sizes)
    rule = (
        " Where all of n independent edits score 100 %, the true rate is with 95 % confidence at least "
        f"0.05^(1/n), Clopper and Pearson's one-sided limit ({bounds}); where all score 0 %, at most 100 % "
        "less that."
    )
    return (
        f"Intervals: {_made(records)}. One without width says that all edits scored the same, not that the "
        f"number is certain.{rule if sizes else ''}"
    )


def _measured(record: RunRecord) -> Iterable[int]:
    """Over how many edits each of the rates is."""
    scores = record.scores
    rates = (scores.success_rate, scores.equivalence_accuracy, scores.retain_accuracy)
    return (rate.edits for rate in (*rates, *_by_wording(record), *_of_held_out_relations(record)))


def _names(records: Sequence[RunRecord]) -> dict[str, str]:
    return table_names([rows[0].setting for rows in by_setting(records)])


def _distinct(texts: Iterable[str]) -> str:
    return " or ".join(sorted(set(texts)))


# CSV -------------------------------------------------------------------------------------------------


def _csv_row(record: RunRecord, tunings: Sequence[Tuning]) -> dict[str, str | int]:
    setting, scores, cost = record.setting, record.scores, record.cost
    row: dict[str, str | int] = {
        "setting": setting.key,
        "task": csv_cell(setting.task),
        "task_version": setting.task_version,
        "pack": csv_cell(setting.pack),
        "pack_sha256": csv_cell(setting.pack_sha256),
        "model": csv_cell(setting.model),
        "model_fingerprint": csv_cell(setting.model_fingerprint),
        "protocol": csv_cell(scores.protocol.name),
        "headline_equivalence": scores.protocol.headline_equivalence,
        "targets": csv_cell(setting.targets),
        "regime": csv_cell(setting.regime),
        "retain": csv_cell(setting.retain),
        **({} if setting.split == "test" else {"split": csv_cell(setting.split)}),
        **({} if setting.precision is None else {"precision": _raw(setting.precision)}),
        "seed": setting.seed,
        **({} if setting.retain_seed is None else {"retain_seed": setting.retain_seed}),
        **({} if scores.protocol.scoring == 1 else {"scoring": scores.protocol.scoring}),
        "edits_sha256": csv_cell(setting.edits_sha256),
        "test_sha256": csv_cell(setting.test_sha256),
        "editor": csv_cell(record.editor),
        "editor_path": csv_cell(record.editor_path),
        "is_control": int(record.is_control),
        **_tuned_trials(record, tunings),
        "edits": scores.edits,
        "no_ops": scores.no_ops,
        "failures": scores.n_failures,
        "failures_by_reason": csv_cell(_failures(record)),
        "edits_with_paraphrases": scores.edits_with_paraphrases,
        "held_out_edits": scores.held_out_edits,
    }
    for name in ESTIMATES:
        estimate: Estimate | None = getattr(scores, name)
        if estimate is None:
            continue
        row[name] = _raw(estimate.value)
        row[f"{name}_low"] = _raw(estimate.low)
        row[f"{name}_high"] = _raw(estimate.high)
        if estimate.hits is not None:
            row[f"{name}_hits"] = estimate.hits
        row[f"{name}_total"] = estimate.total
        row[f"{name}_edits"] = estimate.edits
        if estimate.standard_error is not None:
            row[f"{name}_standard_error"] = _raw(estimate.standard_error)
    row |= {
        "edit_seconds_p50": _raw(cost.edit_seconds_p50),
        "edit_seconds_p95": _raw(cost.edit_seconds_p95),
        "answer_seconds_p50": _raw(cost.answer_seconds_p50),
        "answer_seconds_p95": _raw(cost.answer_seconds_p95),
        "prepare_seconds": _raw(cost.prepare_seconds),
        "peak_memory_bytes": cost.peak_memory_bytes,
    }
    return row


def _tuned_trials(record: RunRecord, tunings: Sequence[Tuning]) -> dict[str, str | int]:
    """Over how many trials the settings were chosen; no column where no editor was tuned on the pack."""
    here = tunings_of(record.setting, tunings)
    if not here:
        return {}
    chosen_by = tuned_by(record, here)
    return {"tuned_trials": "" if record.is_control else len(chosen_by.trials) if chosen_by else 0}


def _raw(number: float) -> str:
    return "" if math.isnan(number) else repr(number)


# Plain text ------------------------------------------------------------------------------------------


def _text(rows: Sequence[RunRecord]) -> str:
    setting, protocol = rows[0].setting, rows[0].scores.protocol
    edits = _precision(setting) or f"{setting.edits} edits"
    split = "" if setting.split == "test" else f", {setting.split} split"
    told = (
        f"{setting.task} version {setting.task_version}: {setting.model} on {setting.pack}, {protocol.name} "
        f"protocol; {edits}, {setting.targets} targets, {setting.regime}, retain: "
        f"{setting.retain}, seed {setting.seed}{split}. In percent, 95 % intervals below."
    )
    compared, _ = headline(protocol)
    headings = [
        "editor",
        "success",
        "inflation\ngap",
        f"equivalence\n({compared})",
        "retain",
        "deterioration",
    ]
    lines = [*textwrap.wrap(plain(told), _WIDTH), "", *_text_table(rows, headings, _text_lines)]
    if unreached := _unreached(rows, plain):
        lines += ["", *textwrap.wrap(unreached, _WIDTH)]
    if _holds_out(rows):
        n_edits = _distinct(str(row.scores.held_out_edits) for row in rows)
        told = f"{_HELD_OUT} Edits of held-out relations: {n_edits}."
        table = _text_table(rows, _HELD_OUT_TEXT_HEADINGS, _held_out_text_lines)
        lines += ["", *textwrap.wrap(told, _WIDTH), "", *table]
    return "\n".join(lines) + "\n"


_HELD_OUT_TEXT_HEADINGS = (
    "editor",
    "equivalence,\nseen\nwordings",
    "equivalence,\nheld-out\nwordings",
    "success,\nheld-out\nrelations",
    "equivalence,\nheld-out\nrelations",
    "retain,\nheld-out\nrelations",
)


def _text_table(
    rows: Sequence[RunRecord],
    headings: Sequence[str],
    lines_of: Callable[[RunRecord], tuple[list[str], list[str]]],
) -> list[str]:
    """The table's lines: each editor's two, controls below.

    Where it is too wide for a terminal, what is too long for the first column stands on a line of its own.
    """
    cells = [line for row in rows if not row.is_control for line in lines_of(row)]
    controls = [line for row in rows if row.is_control for line in lines_of(row)]
    if controls:
        cells += [["controls:", *[""] * (len(headings) - 1)], *controls]
    rule = _tabulated(cells, headings, "simple").splitlines()[-len(cells) - 1]
    room = _WIDTH - len(rule) + rule.index(" ")  # for the first column
    long = [first if len(first) > room else "" for first, *_ in cells]
    fitting = [["" if name else first, *rest] for name, (first, *rest) in zip(long, cells, strict=True)]
    table = _tabulated(fitting, headings, "simple").splitlines()
    body = [part for pair in zip(long, table[-len(cells) :], strict=True) for part in pair if part.strip()]
    return [line.rstrip() for line in (*table[: -len(cells)], *body)]


def _text_lines(record: RunRecord) -> tuple[list[str], list[str]]:
    """An editor's two lines: its numbers; their intervals and what else there is to say."""
    scores = record.scores
    estimates = (
        scores.success_rate,
        scores.inflation_gap,
        scores.equivalence_accuracy,
        scores.retain_accuracy,
        scores.performance_deterioration,
    )
    failed = f"{scores.n_failures} failed, " if scores.n_failures else ""
    edits = "" if record.setting.precision is None else f"{scores.edits} edits, "
    aside = f"· {edits}{failed}{printed.seconds(record.cost.edit_seconds_p50)} s/edit"
    return _two_lines(record, aside, estimates)


def _held_out_text_lines(record: RunRecord) -> tuple[list[str], list[str]]:
    return _two_lines(record, "", (*_by_wording(record), *_of_held_out_relations(record)))


def _two_lines(record: RunRecord, aside: str, estimates: Sequence[Estimate]) -> tuple[list[str], list[str]]:
    intervals = (printed.interval(estimate).replace(", ", ",") for estimate in estimates)
    return (
        [plain(record.editor), *(printed.percent(estimate.value) for estimate in estimates)],
        [aside, *intervals],
    )
