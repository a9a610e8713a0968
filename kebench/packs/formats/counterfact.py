"""CounterFact: statements to complete, each with a false object that an edit puts in place of the true one.

As published with ROME (`counterfact.json`, `multi_counterfact.json`), an array of objects:

    {"case_id": 0, "requested_rewrite": {"prompt": "The mother tongue of {} is", "subject": "…",
     "relation_id": "P103", "target_new": {"str": "…"}, "target_true": {"str": "…"}},
     "paraphrase_prompts": ["…", "…"], "neighborhood_prompts": ["…", …], …}

or flattened by EasyEdit (`counterfact-edit.json`, `…-train.json`, `…-val.json`):

    {"case_id": 0, "prompt": "The mother tongue of … is", "subject": "…", "ground_truth": "…",
     "target_new": "…", "rephrase_prompt": "…", "locality_prompt": "…", "locality_ground_truth": "…"}

The true object is the gold answer, and the false one the alternative. Neighbours are other subjects whose
true object is the same. `portability`, which some files have, is a question that follows from the new fact.
`attribute_prompts` and `generation_prompts` are left out.

Many paraphrases begin with a sentence about something else. Some ask for another relation than the prompt.

Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", arXiv:2202.05262.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kebench.packs.facts import answer_clues
from kebench.packs.json_records import json_rows
from kebench.packs.paraphrases import distinct
from kebench.packs.reading import Entry, Reading
from kebench.packs.record import OwnQuestion, Paraphrase, Record
from kebench.packs.rows import Row

GOLD = "target_true"
SOURCE = "counterfact"


def read(path: Path) -> Reading:
    """Reads the statements in the file `path`.

    Raises:
        BadFile: a field is missing or wrong.
    """
    return Reading(tuple(_entry(row) for row in json_rows(path)))


def _entry(row: Row) -> Entry:
    if row.has("requested_rewrite"):
        rewrite = row.row("requested_rewrite")
        subject = rewrite.text("subject")
        prompt = rewrite.text("prompt").replace("{}", subject)
        true = rewrite.row("target_true").text("str")
        new = rewrite.row("target_new").text("str")
        relation = rewrite.text("relation_id") if rewrite.has("relation_id") else None
        paraphrases = row.texts("paraphrase_prompts")
        neighbours = row.texts("neighborhood_prompts")
    else:
        subject, prompt, relation = row.text("subject"), row.text("prompt"), None
        true, new = row.text("ground_truth"), row.text("target_new")
        paraphrases = (row.text("rephrase_prompt"),)
        neighbours = (row.text("locality_prompt"),) if row.has("locality_prompt") else ()
    further = (
        *(OwnQuestion("neighbourhood", text, (true,)) for text in dict.fromkeys(neighbours)),
        *_portability(row, new),
    )
    record = Record(
        f"{SOURCE}-{row.identifier('case_id')}",
        "",
        prompt,
        (true,),
        distinct(prompt, [Paraphrase(text, SOURCE) for text in paraphrases]),
        subject=subject,
        relation=relation,
        alternatives=(new,),
        further=further,
    )
    return Entry(record, answer_clues(prompt, subject, (true,)))


def _portability(row: Row, target: str) -> Iterator[OwnQuestion]:
    if row.has("portability"):
        inner = row.row("portability")
        yield OwnQuestion(
            "portability", inner.text("New Question"), (inner.text("New Answer"),), target=target
        )
