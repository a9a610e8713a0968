"""zsRE as distributed by KILT (`structured_zeroshot`): one fact in each row.

    {"id": "…", "input": "subject [SEP] relation", "meta": {"template_questions": ["…?", …], …},
     "output": [{"answer": "…", …}, …]}

The first template question is the prompt, the others are its paraphrases. They are templates written by
people, with the subject filled in (Levy et al. 2017). All answers are gold answers. The other fields of a row
and the possible sources are described in `kebench.packs.kilt`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from kebench.packs.kilt import answers_of, kilt_rows
from kebench.packs.questions import question
from kebench.packs.reading import Reading
from kebench.packs.record import Paraphrase
from kebench.packs.rows import Row

GOLD = "output"
SOURCE = "zsre-template"
SEPARATOR = " [SEP] "


def read(
    source: Path | str, configuration: str = "structured_zeroshot", revision: str | None = None
) -> Reading:
    """Reads the facts of a source; rows without an answer (KILT's test split) or a question are counted.

    Raises:
        BadFile: a field is missing or wrong.
        NotFound, BadSetting: as for `kilt_rows`.
    """
    entries = []
    set_aside: Counter[str] = Counter()
    for row in kilt_rows(source, configuration, revision):
        subject, separator, relation = (part.strip() for part in row.text("input").partition(SEPARATOR))
        if not (subject and separator and relation):
            row.wrong("input", row.value["input"], "'subject [SEP] relation'")
        answers = answers_of(row)
        questions = _questions(row)
        if not answers:
            set_aside["rows without output"] += 1
        elif not questions:
            set_aside["rows without a template question"] += 1
        else:
            paraphrases = [Paraphrase(text, SOURCE) for text in questions[1:]]
            entries.append(question(questions[0], answers, paraphrases, subject=subject, relation=relation))
    return Reading(tuple(entries), set_aside=set_aside)


def _questions(row: Row) -> tuple[str, ...]:
    meta = row.row("meta") if row.has("meta") else None
    return meta.texts("template_questions") if meta and meta.has("template_questions") else ()
