"""What De Cao et al. add to KILT's rows: machine-made paraphrases.

    {…a KILT row…, "rephrases": ["…", …], "filtered_rephrases": ["…", …],
     "prediction": "…", "alternatives": ["…", …], "logit": …}

`rephrases` are back-translations; `filtered_rephrases` those on which the authors' base model answered as
on the input. Both are taken, the filtered first, and each paraphrase's source says which list it is from.
`prediction`, `alternatives` and `logit` are about that base model and are left out.

Source: De Cao, Aziz and Titov 2021, "Editing Factual Knowledge in Language Models", arXiv:2104.08164;
https://github.com/nicola-decao/KnowledgeEditor (the files lie on mega.nz).
"""

from __future__ import annotations

from kebench.packs.record import Paraphrase
from kebench.packs.rows import Row

FILTERED = "filtered_rephrases"
ALL = "rephrases"
BLANK = "blank paraphrases"


def rephrases(row: Row) -> tuple[list[Paraphrase], int]:
    """The row's paraphrases, and how many blank ones were left out.

    Raises:
        BadFile: `filtered_rephrases` is missing, or a list holds something other than text.
    """
    found = [(text, FILTERED) for text in row.texts(FILTERED, blank=True)]
    if row.has(ALL):
        found += [(text, ALL) for text in row.texts(ALL, blank=True)]
    kept = [Paraphrase(text, source) for text, source in found if text]
    return kept, len(found) - len(kept)
