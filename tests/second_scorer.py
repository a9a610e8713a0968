"""A second scorer, from `docs/scores.md` alone: the standard library and numpy, nothing of kebench."""

from __future__ import annotations

import json
import math
import string
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

NAN = math.nan


def normal(text: str) -> str:
    lowered = unicodedata.normalize("NFC", text).lower()
    kept = [c for c in lowered if c not in string.punctuation and unicodedata.category(c)[0] != "P"]
    words = unicodedata.normalize("NFC", "".join(kept)).split() or lowered.split()
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)


def plain(text: str) -> str:
    return "".join(c for c in text.lower() if c != " " and c not in string.punctuation)


FORMS: dict[str, Callable[[str], str]] = {"normalised": normal, "decao2021": plain, "raw": str, "label": str}


def equal(one: str | None, other: str | None, rule: str) -> bool:
    return one is not None and other is not None and FORMS[rule](one) == FORMS[rule](other)


def rows_of(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of `edits.jsonl`, each with all facts that are in force in it."""
    rows: list[dict[str, Any]] = []
    facts: list[str] = []
    for row in map(json.loads, lines):
        facts = [*facts[: row.pop("also_edited_kept", 0)], *row.pop("also_edited", ())]
        rows.append({**row, "also_edited": facts} if facts else row)
    return rows


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values) if values else NAN


def weighted(values: dict[str, float], stratum: dict[str, int], sizes: Counter[int]) -> float:
    drawn = defaultdict(list)
    for id_, value in values.items():
        drawn[stratum[id_]].append(value)
    whole = sum(sizes[h] for h in drawn)
    return math.fsum(sizes[h] * mean(drawn[h]) for h in drawn) / whole if drawn else NAN


def of_edit(
    edit: dict[str, Any], base: dict[str, Any], p: dict[str, Any], any_forced: bool
) -> dict[str, Any]:
    failed = edit["failure"] is not None or edit["answer"] is None
    answer = None if failed else edit["answer"]
    said = dict.fromkeys(edit["sample"] or base) if failed else edit["sample"]
    kept = p["paraphrases_equal_to_prompt"] == "kept"
    texts = [t for t in edit["paraphrases"] if kept or normal(t["text"]) != normal(edit["prompt"])]
    worded = {normal(t["text"]) for t in (*edit["paraphrases"], {"text": edit["prompt"]})}
    strict = p["left_out_of_retain"] == "fact"
    facts = {edit["fact"], *edit.get("also_edited", ())}
    about = {i for i, q in base.items() if q["fact"] in facts or normal(q["prompt"]) in worded}
    out = ({edit["id"]} & base.keys()) | (about if strict else set())

    def share(other: str | None, which: Iterable[bool]) -> list[float]:
        pairs = [(None if failed else t["answer"]) for t in texts if t["held_out"] in which]
        return [float(equal(a, other, p["equivalence_equality"])) for a in pairs]

    def right(q: dict[str, Any], a: str | None) -> float:
        return float(any(equal(a, gold, p["gold_equality"]) for gold in q["gold"]))

    def over(value: Callable[[dict[str, Any], str | None], float], out: set[str]) -> tuple[float, int]:
        values = {i: value(base[i], a) for i, a in said.items() if i not in out}
        sizes = Counter(q["stratum"] for i, q in base.items() if i not in out)
        return weighted(values, {i: q["stratum"] for i, q in base.items()}, sizes), len(values)

    def kept(q: dict[str, Any]) -> str:
        stored = q.get("stored")
        return str(q["answer"] if stored is None else stored)

    def lost(q: dict[str, Any], a: str | None) -> float:
        return right(q, q["answer"]) - right(q, a)

    def shares(values: list[float]) -> tuple[float, int]:
        return mean(values), len(values)

    def own_questions(kind: str, compared_with: str, rule: str) -> tuple[float, int]:
        asked = [q for q in edit.get("further", ()) if q["kind"] == kind]
        said = [None if failed else q["answer"] for q in asked]
        accepted = [q["references"][compared_with] for q in asked]
        return shares(
            [float(any(equal(a, r, p[rule]) for r in each)) for a, each in zip(said, accepted, strict=True)]
        )

    forced = NAN if not any_forced else 0.0 if failed else NAN if edit["forced"] is None else edit["forced"]
    success = float(equal(answer, edit["target"], p["success_equality"]))
    there = [q for i, q in base.items() if i not in out]
    return {
        "fact": edit["fact"], "held_out": edit["held_out"], "failed": failed,
        "reason": edit["failure"] or "no answer",
        "no_op": equal(edit["target"], edit["prediction"], p["success_equality"]),
        "success": (success, 1), "forced": (float(forced), 1), "gap": (forced - success, 1),
        "target": shares(share(edit["target"], (True, False))),
        "own": shares(share(answer, (True, False))),
        "seen": shares(share(edit["target"], (False,))), "kept": shares(share(edit["target"], (True,))),
        "retain": over(lambda q, a: float(equal(a, kept(q), p["retain_equality"])), out),
        "gold": over(right, out), "lost": over(lost, set()), "lost_elsewhere": over(lost, out),
        "elsewhere": (mean(right(q, q["answer"]) for q in there), len(there)),
        "neighbourhood": own_questions("neighbourhood", "base answer", "retain_equality"),
        "portability": own_questions("portability", "target", "equivalence_equality"),
    }  # fmt: skip


def betting(x: list[float], half_width: float, most: int) -> float:
    e, before, seen = math.log(2 / 0.05), 0.25, []
    for i, value in enumerate(x, 1):
        d = max(half_width, math.sqrt(2 * e * before / most))
        seen.append((d / (before + d * d), value))
        before = (0.25 + sum(v * v for _, v in seen) - sum(v for _, v in seen) ** 2 / i) / (i + 1)
    low, high = 0.0, 1.0
    for _ in range(40):
        m, capital, best = (low + high) / 2, 0.0, 0.0
        for bet, value in seen:
            capital += math.log(1 + min(bet, 0.75 / m) * (value - m))
            best = max(best, capital)
        low, high = (m, high) if best >= e else (low, m)
    return low


def second_scores(edits: list[dict[str, Any]], base: list[dict[str, Any]], setting: dict[str, Any], seed: int,
                  resamples: int) -> dict[str, Any]:  # fmt: skip
    questions, p = {q["id"]: q for q in base}, setting["protocol"]
    rows = [of_edit(e, questions, p, any(e["forced"] is not None for e in edits)) for e in edits]

    def estimate(rows: list[dict[str, Any]], name: str, of: str | float | None = None, *, least: float = 0,
                 most: float = 1, counted: bool = False) -> dict[str, Any]:  # fmt: skip
        """The mean of `name`; or, with `of`, its ratio to the mean of that (a score, or one number)."""
        kept = []
        for row in rows:
            under = (row[of][0] if isinstance(of, str) else of) if of is not None else 1.0
            if not math.isnan(row[name][0] + under):
                kept.append((row["fact"], row[name][0], under, row[name][1]))
        found: dict[str, Any] = {"value": NAN, "low": NAN, "high": NAN, "standard_error": NAN}
        found |= {"total": sum(total for *_, total in kept), "edits": len(kept)}
        if counted:
            found["hits"] = round(sum(value for _, value, *_ in kept))
        before = mean(under for _, _, under, _ in kept)
        if not kept or before == 0:
            return found
        value = mean(value for _, value, *_ in kept) / before
        least, most = (min(1 - 1 / before, value), max(1, value)) if of is not None else (least, most)
        facts = defaultdict(list)
        for fact, value_, under, _ in kept:
            facts[fact].append((1, value_, under))
        table = np.round(
            [[math.fsum(column) for column in zip(*each, strict=True)] for each in facts.values()], 12
        )
        table = table if of is not None else table[:, :2]
        distinct, counts = np.unique(table, axis=0, return_counts=True)
        drawn = np.random.default_rng(seed).multinomial(len(table), counts / len(table), size=resamples)
        sums = drawn @ distinct
        bottom = sums[:, 2 if of is not None else 0]
        values = sums[bottom > 0, 1] / bottom[bottom > 0]
        low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (value, value)
        error = float(np.std(values, ddof=1)) if high - low > 1e-9 else NAN
        if math.isnan(error):
            others = 1 - 0.05 ** (1 / len(table))
            low, high = value - others * max(value - least, 0), value + others * max(most - value, 0)
        low, high = min(float(low), value), max(float(high), value)
        return found | {"value": value, "low": low, "high": high, "standard_error": error}

    counted_no_ops = p.get("left_out_of_success") == "nothing"
    real = [row for row in rows if counted_no_ops or not row["no_op"]]
    held = [row for row in rows if row["held_out"]]
    trained = [row for row in rows if not row["held_out"]]
    told_apart = any(row["kept"][1] for row in trained)
    right = [any(equal(q["answer"], gold, p["gold_equality"]) for gold in q["gold"]) for q in base]
    accuracy = mean(right)
    for row in rows:
        row["is_no_op"] = (float(row["no_op"]), 1)
    lost = estimate(rows, "lost", least=accuracy - 1, most=accuracy)
    retain = estimate(rows, "retain")
    if setting.get("precision") is not None:
        x = [row["retain"][0] for row in rows if not math.isnan(row["retain"][0])]
        low, above = (
            betting(each, setting["precision"] / 100, setting["edits"]) for each in (x, [1 - v for v in x])
        )
        ends = {"low": min(low, retain["value"]), "high": max(1 - above, retain["value"])}
        retain |= {**ends, "standard_error": NAN}
    own = {name: estimate(rows, name) for name in ("neighbourhood", "portability")}
    return {f"{name}_accuracy": found for name, found in own.items() if found["edits"]} | {
        "edits": len(rows), "no_ops": sum(row["no_op"] for row in rows), "held_out_edits": len(held),
        "failures": dict(Counter(row["reason"] for row in rows if row["failed"])),
        "edits_with_paraphrases": sum(row["target"][1] > 0 for row in rows),
        "no_op_share": estimate(rows, "is_no_op", counted=True),
        "success_rate": estimate(real, "success", counted=True),
        "success_rate_teacher_forced": estimate(real, "forced", counted=True),
        "inflation_gap": estimate(real, "gap", counted=True, least=-1),
        "equivalence_target": estimate(rows, "target"), "equivalence_own": estimate(rows, "own"),
        "equivalence_seen_wordings": estimate(trained if told_apart else [], "seen"),
        "equivalence_held_out_wordings": estimate(trained if told_apart else [], "kept"),
        "held_out_success_rate": estimate([r for r in real if r["held_out"]], "success", counted=True),
        "held_out_equivalence": estimate(held, "target"),
        "held_out_retain_accuracy": estimate(held, "retain"),
        "retain_accuracy": retain, "retain_accuracy_gold": estimate(rows, "gold"),
        "accuracy_before": {"value": accuracy, "low": accuracy, "high": accuracy, "standard_error": 0.0,
                            "hits": sum(right), "total": len(base), "edits": lost["edits"]},
        "accuracy_after": lost | {"value": accuracy - lost["value"], "low": accuracy - lost["high"],
                                  "high": accuracy - lost["low"]},
        "performance_deterioration": estimate(rows, "lost", of=accuracy),
        "performance_deterioration_elsewhere": estimate(rows, "lost_elsewhere", of="elsewhere"),
    }  # fmt: skip
