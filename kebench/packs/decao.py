"""Reads the fields that De Cao et al. add to KILT rows: paraphrases, and the answers of their base model.

    {…a KILT row…, "rephrases": ["…", …], "filtered_rephrases": ["…", …],
     "prediction": "…", "alternatives": ["…", …], "logit": …}

`rephrases` holds back-translations of the input. `filtered_rephrases` holds those for which the authors' base
model gave the same answer as for the input; their evaluation uses only these. The `source` of each paraphrase
says from which list it comes. The filtered list is kept as published, even if it holds the input itself or
the same text twice. From the other list, only texts that are new are added; the protocol `decao2021` does not
use them.

`prediction`, `alternatives` and `logit` come from the authors' base model: its answer, other answers that may
be the target of an edit, and (for FEVER) its logit. All three are kept. Only the protocol `decao2021` uses
the prediction as the base model's answer. Surrounding spaces are removed. Blank alternatives are left out and
counted, because no model can be trained to give an empty answer.

Source: De Cao, Aziz and Titov 2021, "Editing Factual Knowledge in Language Models", arXiv:2104.08164;
https://github.com/nicola-decao/KnowledgeEditor (the files are on mega.nz).
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
    """Returns the record with the fields that the authors add, and counts of what was left out.

    Args:
        record: the record read from the KILT fields of the row.
        row: the row of the file.
        labels: a classifier's labels; the prediction and the alternatives must be among them.

    Raises:
        BadFile: `filtered_rephrases` is missing, or a field does not have the form described above.
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
