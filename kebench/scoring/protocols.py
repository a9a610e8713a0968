"""What is compared with what: the choices on which the literature's scores differ, as fields.

Numbers whose protocols differ never share a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from kebench.errors import NotFound

Equality = Literal["normalised", "decao2021", "raw", "label"]
"""When two answers are equal: if they are the same after `normalise`, the same after `normalise_decao2021`,
the same string, or the same label."""

Targets = Literal["alternative", "gold"]
"""What edits ask for: an `alternative` to the prediction, as De Cao et al. do, or the `gold` answer where
the prediction is wrong (corrections). These are two different experiments, which never share a table."""

SCORING = 2
"""The version of the rules by which answers become scores, which `docs/scores.md` defines. Raised whenever
the same answers would give other numbers. Version 1: intervals resampled edits one by one and had no width
where all scored the same; the accuracy before was estimated on each edit's sample."""

STRATA = 4
"""How many strata a retain sample is drawn from. Each stratum gives at least one question."""


@dataclass(frozen=True)
class Protocol:
    """The rules one set of scores was made by.

    Attributes:
        name: `strict` or `decao2021`.
        headline_equivalence: an answer to a paraphrase is compared with the `target` a, or with the edited
            model's `own_answer` to x. Both are always computed; this one is *the* equivalence accuracy.
        paraphrases_equal_to_prompt: whether a paraphrase that is x again, once both are normalised, is
            `left_out` of P^x or `kept` in it. The same holds for a paraphrase that is another one again.
        left_out_of_retain: what O^x does not hold. `row`: the record x itself, by its id. `fact`: also every
            question about the same fact or about a fact that is edited in the same model, and every question
            worded like x or one of its paraphrases.
        left_out_of_success: which edits do not count for success. `no_ops`: those that ask for what the base
            model says already. `nothing`: all edits count.
        success_equality: when the answer to x equals a. It also decides which edits are no-ops, and which
            paraphrases the base model answers as it answers x.
        equivalence_equality: when the answer to a paraphrase equals what it is compared with.
        retain_equality: when an answer over O^x equals the base model's.
        gold_equality: when an answer equals one of the accepted gold answers.
        beams: how many beams the models decode with; 1 is greedy.
        decoding: `free`: a model decodes its answers to its own end of sequence, without teacher forcing.
        averaging: `per_edit`: over the questions of an edit, then over edits. Answers are never pooled.
        deterioration: `ratio_of_means` over edits of accuracy after and before, on the test set with x in it.
        scoring: the version of the rules that have no field here, `SCORING`.
        base_answers: what counts as the base model's answer y. `own`: what the model says. `stored`: the
            prediction that the record stores, if it does; then the record's stored alternatives and filtered
            paraphrases are used unchanged too.
        alternatives: the rule by which the base model's beams become alternatives (`base_answers.differing`).
        retain_over: O^x is drawn from `all` test questions, or from those that are `editable` themselves.
        stopping: an editor that stops once the target is reached sees so by the `argmax` of its tokens, or by
            the `answer`, decoded and compared as for success.
    """

    name: str
    headline_equivalence: Literal["target", "own_answer"]
    paraphrases_equal_to_prompt: Literal["left_out", "kept"]
    left_out_of_retain: Literal["fact", "row"]
    success_equality: Equality
    equivalence_equality: Equality
    retain_equality: Equality
    gold_equality: Equality
    beams: int
    left_out_of_success: Literal["no_ops", "nothing"] = "no_ops"
    decoding: Literal["free"] = "free"
    averaging: Literal["per_edit"] = "per_edit"
    deterioration: Literal["ratio_of_means"] = "ratio_of_means"
    scoring: int = SCORING
    base_answers: Literal["own", "stored"] = "own"
    alternatives: Literal["kebench", "decao2021"] = "kebench"
    retain_over: Literal["all", "editable"] = "all"
    stopping: Literal["argmax", "answer"] = "argmax"

    def to_json(self) -> dict[str, Any]:
        """The fields; a field that the first records lack is left out where it is what held for them."""
        fields = asdict(self)
        return {name: fields[name] for name in fields if fields[name] != _AT_FIRST.get(name)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Protocol:
        """Reads what `to_json` wrote."""
        return cls(**{**_AT_FIRST, **fields})


_AT_FIRST: Mapping[str, Any] = {
    "scoring": 1,
    "base_answers": "own",
    "alternatives": "kebench",
    "retain_over": "all",
    "stopping": "argmax",
}
"""The fields that the first records lack → what held for them."""


STRICT = Protocol(
    name="strict",
    headline_equivalence="target",
    paraphrases_equal_to_prompt="left_out",
    left_out_of_retain="fact",
    success_equality="normalised",
    equivalence_equality="normalised",
    retain_equality="normalised",
    gold_equality="normalised",
    beams=1,
)

# As the released code of De Cao et al. (2021) computes them; docs/decao2021.md lists what still differs.
# Performance deterioration is not in that code, so its equality is ours.
DECAO2021 = Protocol(
    name="decao2021",
    headline_equivalence="own_answer",
    paraphrases_equal_to_prompt="kept",
    left_out_of_retain="row",
    success_equality="decao2021",
    equivalence_equality="raw",
    retain_equality="raw",
    gold_equality="normalised",
    beams=5,
    left_out_of_success="nothing",
    base_answers="stored",
    alternatives="decao2021",
    retain_over="editable",
    stopping="answer",
)

PROTOCOLS = {protocol.name: protocol for protocol in (STRICT, DECAO2021)}


def protocol(name: str, *, labels: bool) -> Protocol:
    """The protocol of that name, for answers that are labels or for answers that are text.

    Args:
        name: `strict` or `decao2021`.
        labels: whether answers are a classifier's labels. They are equal if the labels are the same, and
            nothing is decoded.

    Raises:
        NotFound: there is no such protocol; the nearest name is offered.
    """
    if name not in PROTOCOLS:
        raise NotFound("protocol", name, PROTOCOLS)
    if not labels:
        return PROTOCOLS[name]
    return replace(
        PROTOCOLS[name],
        success_equality="label",
        equivalence_equality="label",
        retain_equality="label",
        gold_equality="label",
        beams=1,
        alternatives="kebench",
        stopping="argmax",
    )
