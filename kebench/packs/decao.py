"""What De Cao et al. add to KILT's rows: paraphrases, and what their base model said.

    {…a KILT row…, "rephrases": ["…", …], "filtered_rephrases": ["…", …],
     "prediction": "…", "alternatives": ["…", …], "logit": …}

`rephrases` are back-translations; `filtered_rephrases` those on which the authors' base model answered as
on the input, and the only ones their evaluation reads. Each paraphrase's source says which list it is from.
The filtered list is taken whole: it may hold the input itself, or one text twice. Of the other list, what is
neither is added; the protocol `decao2021` leaves it aside.

`prediction`, `alternatives` and `logit` are that base model's: what it answered, what an edit may ask for
instead, and (FEVER) its logit. All three are kept; only `decao2021` takes the prediction for the base
model's answer. Spaces around them go; blank alternatives, which no model can be taught, are left out and
counted.

Source: De Cao, Aziz and Titov 2021, "Editing Factual Knowledge in Language Models", arXiv:2104.08164;
https://github.com/nicola-decao/KnowledgeEditor (the files lie on mega.nz).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from kebench.packs.paraphrases import AS_PUBLISHED, distinct
from kebench.packs.record import Paraphrase, Record
from kebench.packs.rows import Row

ALL = "rephrases"
BLANK = "blank paraphrases"
BLANK_ALTERNATIVES = "blank alternatives"


def annotated(record: Record, row: Row, labels: tuple[str, ...] = ()) -> tuple[Record, Counter[str]]:
    """The record with what the authors' row adds to it, and what was left out.

    Args:
        record: of the same row.
        row: as the file has it.
        labels: a classifier's; its prediction and alternatives must be among them.

    Raises:
        BadFile: `filtered_rephrases` is missing, or a field holds something else than this module says.
    """
    found = [(text, AS_PUBLISHED) for text in row.texts(AS_PUBLISHED, blank=True)]
    if row.has(ALL):
        found += [(text, ALL) for text in row.texts(ALL, blank=True)]
    paraphrases = [Paraphrase(text, source) for text, source in found if text]
    alternatives = row.texts("alternatives", blank=True) if row.has("alternatives") else ()
    if labels:
        for place, label in enumerate(alternatives):
            if label not in labels:
                row.wrong(f"alternatives[{place}]", label, " or ".join(labels))
    prediction = None
    if row.has("prediction"):
        prediction = row.choice("prediction", labels) if labels else row.said("prediction")
    left_out = Counter({BLANK: len(found) - len(paraphrases), BLANK_ALTERNATIVES: alternatives.count("")})
    return (
        replace(
            record,
            paraphrases=distinct(record.prompt, paraphrases),
            alternatives=tuple(dict.fromkeys(each for each in alternatives if each)),
            prediction=prediction,
            logit=row.number("logit") if row.has("logit") else None,
        ),
        +left_out,
    )
