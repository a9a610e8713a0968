"""KnowEdit's zsRE test (`ZsRE-test-all.json`, `…-prompt10-v2.json`): an array of objects.

    {"subject": "…", "prompt": "…?", "ground_truth": ["…"], "rephrase_prompt": "…?",
     "generate_prompt": ["…?", …], "target_new": "…", "locality": {…}, "portability": {…}}

`rephrase_prompt` is zsRE's back-translated paraphrase. `generate_prompt`, which only one variant of the file
has, holds about ten more paraphrases written by a language model (the notebook published with that file loads
Meta-Llama-3-8B-Instruct). The `source` of each paraphrase says from which field it comes. A few generated
paraphrases are blank; they are left out and counted. `ground_truth` holds true answers: it equals MEND's
`answers` for all 791 questions that are in both. `target_new` is a counterfactual target and is left out, as
are `locality` and `portability`. (In KnowEdit's recent facts, `wiki_recent`, `target_new` is the true answer.
That file has no `ground_truth` and is refused here.)

Source: Zhang et al. 2024, "A Comprehensive Study of Knowledge Editing for Large Language Models",
arXiv:2401.01286; https://huggingface.co/datasets/zjunlp/KnowEdit.
"""

from __future__ import annotations

from pathlib import Path

from kebench.packs.json_records import json_rows
from kebench.packs.questions import question
from kebench.packs.reading import Reading
from kebench.packs.record import Paraphrase

GOLD = "ground_truth"
REPHRASED = "rephrase_prompt"
GENERATED = "generate_prompt"


def read(path: Path) -> Reading:
    """Reads the questions in the file `path`.

    Raises:
        BadFile: a field is missing or wrong.
    """
    entries = []
    n_blank = 0
    for row in json_rows(path):
        answers = row.texts("ground_truth")
        if not answers:
            row.wrong("ground_truth", [], "at least one answer")
        generated = row.texts(GENERATED, blank=True) if row.has(GENERATED) else ()
        n_blank += generated.count("")
        paraphrases = [Paraphrase(row.text(REPHRASED), REPHRASED)]
        paraphrases += [Paraphrase(text, GENERATED) for text in generated if text]
        entries.append(question(row.text("prompt"), answers, paraphrases, subject=row.text("subject")))
    return Reading(tuple(entries), set_aside={"blank generated paraphrases": n_blank} if n_blank else {})
