"""Computes the base model's answers to all prompts and paraphrases once, and caches them."""

import hashlib
import json
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rapidfuzz.distance import Levenshtein

from kebench.files.checked import read_lines, read_or_none, write_lines
from kebench.files.home import home
from kebench.models.model import AbstractModel
from kebench.models.numerics import numerics
from kebench.packs.record import OwnQuestion, Record
from kebench.scoring.metrics import same
from kebench.scoring.normalise import normalise_decao2021
from kebench.scoring.protocols import Protocol, Targets

logger = logging.getLogger(__name__)

VERSION = 2
"""Raise this number when the same model and records give another file."""
ALTERNATIVE_BEAMS = 5
_SINCE = ("prediction", "logit", "further")
"""The fields of a record that older packs do not have."""
AT_ONCE = 512


@dataclass(frozen=True)
class AnsweredParaphrase:
    """A record's paraphrase, and the base model's answer to it."""

    text: str
    source: str
    answer: str
    held_out: bool = False


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question that belongs to one record, and the base model's answer to it."""

    question: OwnQuestion
    answer: str


@dataclass(frozen=True)
class AnsweredRecord:
    """A record with the base model's answers.

    Attributes:
        id, fact, prompt, gold, subject, held_out: as in the record.
        prediction: the answer y to x: the model's own answer, or the answer that the pack stores.
        correct: True if the model's own answer is a gold answer.
        margin: the margin of the model's own answer, in nats: how far it is from being another answer.
        alternatives: answers that an edit could ask for instead of y: the other labels; or those of the pack,
            if it has any; or those of the five best beams that differ enough from y. Empty if edits ask for
            gold answers.
        target: one of the alternatives, drawn with a seed derived from the id; None if there is none.
        paraphrases: the record's paraphrases, with the answers to them.
        own: the model's own answer, if y is the answer that the pack stores; otherwise None.
        further: the record's own questions, with the answers to them.
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
    own: str | None = None
    further: tuple[AnsweredQuestion, ...] = ()

    @property
    def said(self) -> str:
        """The model's own answer."""
        return self.prediction if self.own is None else self.own

    @property
    def stored(self) -> str | None:
        """The answer that the pack's authors stored, if it is y. Then all their paraphrases are asked."""
        return None if self.own is None else self.prediction


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
    """Returns the records with the base model's answers, from the cache or computed now.

    The key of the cache is a hash of the model's `identity`, the records, and how they are asked and decoded.
    A damaged file is replaced, after a warning. With gold targets there is no beam search for alternatives,
    which is most of the work.
    """
    key = _key(model, identity, records, protocol, targets)
    path = home() / "answers" / f"{key}.jsonl"
    kept = read_or_none(path, lambda: tuple(map(_from_line, read_lines(path, key))))
    if kept is not None:
        return kept
    with numerics(model.device, tf32=model.tf32):
        found = tuple(_answer_all(model, records, protocol, report, targets))
    lines = (json.dumps(asdict(record), ensure_ascii=True, sort_keys=True) for record in found)
    write_lines(lines, path, key)
    return found


def predicted(
    model: AbstractModel,
    identity: str,
    records: Sequence[Record],
    protocol: Protocol,
    report: Report = lambda _done, _all, _words: None,
) -> list[str]:
    """Returns the model's answer to each record's prompt, from the cache or computed now.

    The answers are those of `answered`. This is much less work, because paraphrases are not asked, and
    margins and alternatives are not computed.
    """
    key = _key(model, identity, records, protocol, "gold")
    path = home() / "answers" / f"{key}.predictions.jsonl"
    kept = read_or_none(path, lambda: [str(json.loads(line)) for line in read_lines(path, key)])
    if kept is not None:
        return kept
    found: list[str] = []
    with numerics(model.device, tf32=model.tf32):
        for start in range(0, len(records), AT_ONCE):
            part = records[start : start + AT_ONCE]
            report(start, len(records), "")
            own = iter(
                model.answer([r.prompt for r in part if not takes_stored(r, protocol)], beams=protocol.beams)
            )
            found += [r.prediction or "" if takes_stored(r, protocol) else next(own) for r in part]
    report(len(records), len(records), "")
    write_lines(map(json.dumps, found), path, key)
    return found


def _answer_all(
    model: AbstractModel, records: Sequence[Record], protocol: Protocol, report: Report, targets: Targets
) -> Iterator[AnsweredRecord]:
    for start in range(0, len(records), AT_ONCE):
        part = records[start : start + AT_ONCE]
        report(start, len(records), "")
        prompts = [record.prompt for record in part]
        own = model.answer(prompts, beams=protocol.beams)
        from_pack = [takes_stored(record, protocol) for record in part]
        predictions = [
            record.prediction or "" if stored else said
            for record, said, stored in zip(part, own, from_pack, strict=True)
        ]
        # Most paraphrases have the prompt's answer. A guess saves decoding and does not change the answer.
        asked = [(p, y) for record, y in zip(part, own, strict=True) for p in record.paraphrases]
        said = iter(
            model.answer([p.text for p, _ in asked], guesses=[y for _, y in asked], beams=protocol.beams)
        )
        further = [question for record in part for question in record.further]
        said_further = iter(model.answer([each.prompt for each in further], beams=protocol.beams))
        margins = margins_of(model, prompts, own)
        alternatives = _alternatives(model, part, predictions, protocol, targets)
        for record, y, mine, stored, margin, others in zip(
            part, predictions, own, from_pack, margins, alternatives, strict=True
        ):
            yield AnsweredRecord(
                id=record.id,
                fact=record.fact,
                prompt=record.prompt,
                gold=record.answers,
                prediction=y,
                correct=any(same(mine, gold, protocol.gold_equality) for gold in record.answers),
                margin=margin,
                alternatives=others,
                target=random.Random(f"target:{record.id}").choice(others) if others else None,
                paraphrases=tuple(
                    AnsweredParaphrase(p.text, p.source, next(said), p.held_out) for p in record.paraphrases
                ),
                subject=record.subject,
                held_out=record.held_out,
                own=mine if stored else None,
                further=tuple(AnsweredQuestion(each, next(said_further)) for each in record.further),
            )
    report(len(records), len(records), "")


def margins_of(model: AbstractModel, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """Returns the margin of each answer; 0 for an answer that cannot be read back, such as an empty one."""
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
    """Returns the answers that each edit could ask for instead of y; none if edits ask for gold answers."""
    if targets == "gold":
        return [()] * len(records)
    labels = model.prompt_format.labels if model.family == "classifier" else ()
    from_beams = [
        index
        for index, record in enumerate(records)
        if not (labels or record.alternatives or takes_stored(record, protocol))
    ]
    beams = iter(model.hypotheses([records[index].prompt for index in from_beams], ALTERNATIVE_BEAMS))
    found = []
    for record, y in zip(records, predictions, strict=True):
        if takes_stored(record, protocol):  # even if y is among them; the first one, if they are labels
            found.append(record.alternatives[:1] if labels else record.alternatives)
        elif labels:
            found.append(tuple(label for label in labels if label != y))
        elif record.alternatives:
            others = (each for each in record.alternatives if not same(each, y, protocol.success_equality))
            found.append(tuple(others))
        elif protocol.alternatives == "decao2021":
            kept = (text.strip() for text in differing_decao2021(next(beams), y))
            found.append(tuple(text for text in kept if text))  # a blank answer cannot be a target
        else:
            found.append(differing(next(beams), y))
    return found


def takes_stored(record: Record, protocol: Protocol) -> bool:
    """Returns True if the answers that the pack's authors stored replace the model's own."""
    return protocol.base_answers == "stored" and record.prediction is not None


def differing_decao2021(candidates: Sequence[str], prediction: str) -> tuple[str, ...]:
    """Returns the candidates that De Cao et al. would keep as alternatives, in order. Some may be blank.

    A candidate of less than 5 characters, dots and spaces included, is kept if it differs from the prediction
    after normalisation. A longer one is kept if its edit distance, after normalisation, is more than 4. Then
    all full stops are removed. Source: their script `predictions_and_alternatives_kilt.py`, as it reads
    (reference §1.8).
    """
    y = normalise_decao2021(prediction)
    kept: dict[str, None] = {}
    for candidate in candidates:
        plain = normalise_decao2021(candidate)
        if plain != y if len(candidate) < 5 else Levenshtein.distance(plain, y) > 4:
            kept[candidate.replace(".", "")] = None
    return tuple(kept)


def differing(candidates: Sequence[str], prediction: str) -> tuple[str, ...]:
    """Returns the candidates that differ enough from the prediction to be another answer.

    The rule is nearly that of De Cao et al. After normalisation, a candidate of less than 5 characters must
    differ from the prediction, and a longer one must have an edit distance of more than 4. Full stops at both
    ends are removed; others ("St. Louis") stay.
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
    content: list[Any] = [VERSION, identity, asdict(model.prompt_format), protocol.beams]
    content += [protocol.gold_equality, *map(_content, records)]
    content += [targets] if targets == "gold" else []  # no alternatives then
    content += [protocol.alternatives] if protocol.alternatives != "kebench" else []
    content += ["stored"] if any(takes_stored(record, protocol) for record in records) else []
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _content(record: Record) -> dict[str, Any]:
    """Returns a record's fields, without empty fields of `_SINCE`, so that older packs keep their keys."""
    fields = asdict(record)
    return {name: fields[name] for name in fields if fields[name] not in (None, ()) or name not in _SINCE}


def _from_line(line: str) -> AnsweredRecord:
    fields = json.loads(line)
    fields["paraphrases"] = tuple(AnsweredParaphrase(**each) for each in fields["paraphrases"])
    fields["further"] = tuple(
        AnsweredQuestion(OwnQuestion(**{**q, "answers": tuple(q["answers"])}), each["answer"])
        for each in fields.get("further", ())
        for q in (each["question"],)
    )
    return AnsweredRecord(
        **{**fields, "gold": tuple(fields["gold"]), "alternatives": tuple(fields["alternatives"])}
    )
