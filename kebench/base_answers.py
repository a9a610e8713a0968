"""The base pass: what the base model says to every prompt and paraphrase, once per (model, task), cached."""

import hashlib
import json
import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rapidfuzz.distance import Levenshtein

from kebench.home import home
from kebench.metrics import same
from kebench.models.model import AbstractModel
from kebench.normalise import normalise_decao2021
from kebench.numerics import numerics
from kebench.packs.record import Record
from kebench.protocols import Protocol, Targets

logger = logging.getLogger(__name__)

VERSION = 2
"""Raised when the same model and records would give another file."""
ALTERNATIVE_BEAMS = 5
_STORED = ("prediction", "logit")
AT_ONCE = 512


@dataclass(frozen=True)
class AnsweredParaphrase:
    """A record's paraphrase, and what the base model says to it."""

    text: str
    source: str
    answer: str
    held_out: bool = False


@dataclass(frozen=True)
class AnsweredRecord:
    """A record and what the base model says to it.

    Attributes:
        id, fact, prompt, gold, subject: the record's.
        prediction: y.
        correct: whether y is a gold answer.
        margin: how far y is from flipping, in nats.
        alternatives: answers that could be asked for instead: the other labels; the pack's, if it gives
            any; or the beam-5 ones that differ enough from y. None where no edit asks for one.
        target: the alternative drawn, with a seed derived from the id; None where there is none.
        paraphrases: with the answers to them.
        held_out: the record's.
    """

    id: str
    fact: str
    prompt: str
    gold: tuple[str, ...]
    prediction: str
    correct: bool
    margin: float
    alternatives: tuple[str, ...]
    target: str | None
    paraphrases: tuple[AnsweredParaphrase, ...] = ()
    subject: str | None = None
    held_out: bool = False


Report = Callable[[int, int, str], None]


def answered(
    model: AbstractModel,
    identity: str,
    records: Sequence[Record],
    protocol: Protocol,
    report: Report = lambda _done, _all, _words: None,
    *,
    targets: Targets = "alternative",
) -> tuple[AnsweredRecord, ...]:
    """The records with the base model's answers, from the cache or made now.

    The cache is by content: the model's `identity`, the records, how they are asked and decoded. With gold
    targets nothing is asked of the beams, which are most of the work.
    """
    path = home() / "answers" / f"{_key(model, identity, records, protocol, targets)}.jsonl"
    if path.is_file():
        return tuple(_from_line(line) for line in path.read_text(encoding="utf-8").splitlines())
    with numerics(model.device, tf32=model.tf32):
        found = tuple(_answer_all(model, records, protocol, report, targets))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    lines = (json.dumps(asdict(record), ensure_ascii=True, sort_keys=True) for record in found)
    partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    partial.replace(path)
    return found


def _answer_all(
    model: AbstractModel, records: Sequence[Record], protocol: Protocol, report: Report, targets: Targets
) -> Iterator[AnsweredRecord]:
    for start in range(0, len(records), AT_ONCE):
        part = records[start : start + AT_ONCE]
        report(start, len(records), "")
        prompts = [record.prompt for record in part]
        predictions = model.answer(prompts, beams=protocol.beams)
        # Most paraphrases get the prompt's answer; a guess saves decoding and changes nothing.
        asked = [(p, y) for record, y in zip(part, predictions, strict=True) for p in record.paraphrases]
        said = iter(
            model.answer([p.text for p, _ in asked], guesses=[y for _, y in asked], beams=protocol.beams)
        )
        margins = margins_of(model, prompts, predictions)
        alternatives = _alternatives(model, part, predictions, protocol, targets)
        for record, y, margin, others in zip(part, predictions, margins, alternatives, strict=True):
            yield AnsweredRecord(
                id=record.id,
                fact=record.fact,
                prompt=record.prompt,
                gold=record.answers,
                prediction=y,
                correct=any(same(y, gold, protocol.gold_equality) for gold in record.answers),
                margin=margin,
                alternatives=others,
                target=random.Random(f"target:{record.id}").choice(others) if others else None,
                paraphrases=tuple(
                    AnsweredParaphrase(p.text, p.source, next(said), p.held_out) for p in record.paraphrases
                ),
                subject=record.subject,
                held_out=record.held_out,
            )
    report(len(records), len(records), "")


def margins_of(model: AbstractModel, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """The margin of each answer; 0, as if about to flip, for an empty one, which cannot be fed back."""
    pairs = zip(prompts, answers, strict=True)
    whole = [index for index, (prompt, y) in enumerate(pairs) if model.canonical(prompt, y) is not None]
    found = iter(model.margins([prompts[i] for i in whole], [answers[i] for i in whole]))
    margins = [0.0] * len(answers)
    for index in whole:
        margins[index] = round(next(found), 4)
    return margins


def _alternatives(
    model: AbstractModel,
    records: Sequence[Record],
    predictions: Sequence[str],
    protocol: Protocol,
    targets: Targets,
) -> list[tuple[str, ...]]:
    """What could be asked for instead of y; nothing where edits ask for the gold answer."""
    if targets == "gold":
        return [()] * len(records)
    if model.family == "classifier":
        return [tuple(label for label in model.asking.labels if label != y) for y in predictions]
    own = [index for index, record in enumerate(records) if not record.alternatives]
    beams = iter(model.hypotheses([records[index].prompt for index in own], ALTERNATIVE_BEAMS))
    return [
        tuple(each for each in record.alternatives if not same(each, y, protocol.success_equality))
        if record.alternatives
        else differing(next(beams), y)
        for record, y in zip(records, predictions, strict=True)
    ]


def differing(candidates: Sequence[str], prediction: str) -> tuple[str, ...]:
    """The candidates far enough from the prediction to be another answer, as De Cao et al. choose them.

    Both normalised: another string if shorter than 5 characters, else more than 4 edits away. Full stops
    at the ends go. Source: their `predictions_and_alternatives_kilt.py`, by reading (reference §1.8).
    """
    y = normalise_decao2021(prediction)
    kept: dict[str, None] = {}
    for candidate in candidates:
        text = candidate.strip(".").strip()
        plain = normalise_decao2021(text)
        far = plain != y if len(plain) < 5 else Levenshtein.distance(plain, y) > 4
        if plain and far:
            kept[text] = None
    return tuple(kept)


def _key(
    model: AbstractModel, identity: str, records: Sequence[Record], protocol: Protocol, targets: Targets
) -> str:
    content: list[Any] = [VERSION, identity, asdict(model.asking), protocol.beams]
    content += [protocol.gold_equality, *map(_content, records)]
    content += [targets] if targets == "gold" else []  # without alternatives
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _content(record: Record) -> dict[str, Any]:
    """A record's fields; `_STORED` only where there is something, so that older files keep their keys."""
    fields = asdict(record)
    return {name: fields[name] for name in fields if fields[name] is not None or name not in _STORED}


def _from_line(line: str) -> AnsweredRecord:
    fields = json.loads(line)
    fields["paraphrases"] = tuple(AnsweredParaphrase(**each) for each in fields["paraphrases"])
    return AnsweredRecord(
        **{**fields, "gold": tuple(fields["gold"]), "alternatives": tuple(fields["alternatives"])}
    )
