"""KnowEdit's zsRE test (`ZsRE-test-all.json`, `…-prompt10-v2.json`): an array of objects.

    {"subject": "…", "prompt": "…?", "ground_truth": ["…"], "rephrase_prompt": "…?",
     "generate_prompt": ["…?", …], "target_new": "…", "locality": {…}, "portability": {…}}

`rephrase_prompt` is zsRE's back-translated paraphrase; `generate_prompt`, in the variant that has it, holds
about ten more written by a language model (the notebook beside that file loads Meta-Llama-3-8B-Instruct):
each paraphrase's source says which. A few generated ones are blank; they are dropped and counted.
`ground_truth` is the truth: it equals MEND's `answers` for all 791 questions that both hold. `target_new` is
a counterfactual to edit in and is left out, as are `locality` and `portability`. (In KnowEdit's recent
facts, `wiki_recent`, it is `target_new` that is true; that file has no `ground_truth` and is refused here.)

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
    """The questions in `path`.

    Raises:
        BadFile: an object lacks a field or holds a wrong one.
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
