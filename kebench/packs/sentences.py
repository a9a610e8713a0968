"""Makes sentences from the facts of the pack `mini`, which is shipped with kebench.

    <folder>/facts.tsv        one fact on each line: relation, subject, object, false object, tense
    <folder>/relations.yaml   relation → its name, and patterns for questions and claims

In a pattern, `[X]` is the subject, `[Y]` the object, and `[a Y]` the object with its indefinite article. Of
`[is|was]`, the word that fits the fact's tense is chosen. The last `HELD_OUT` patterns of each relation are
for testing: no editor is trained on them, nor on any sentence of a relation marked `held_out`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict

from kebench.errors import BadFile
from kebench.files.yaml import FORBID_EXTRA, as_mapping, read_yaml, validated
from kebench.packs.json_records import text_of
from kebench.packs.record import Paraphrase

HELD_OUT = 4
COLUMNS = ("relation", "subject", "object", "false", "tense")
_CHOICE = re.compile(r"\[([^][|]*)\|([^][|]*)\]")


@dataclass(frozen=True)
class Relation:
    """The patterns of the questions and claims about one relation.

    Attributes:
        name: the name of the relation in words.
        questions: patterns with one [X]; the object is the answer.
        claims: patterns with one [X] and one [Y].
        held_out: True if no editor is trained on the facts of this relation.
    """

    __pydantic_config__: ClassVar[ConfigDict] = FORBID_EXTRA

    name: str
    questions: tuple[str, ...]
    claims: tuple[str, ...]
    held_out: bool = False


@dataclass(frozen=True)
class Fact:
    """One line of `facts.tsv`.

    Attributes:
        relation: the key of the relation in `relations.yaml`.
        subject, object: as they are written inside an English sentence, with the article.
        false: another object of the same type, with which the claim is false.
        tense: the tense in which sentences about the subject are written.
    """

    relation: str
    subject: str
    object: str
    false: str
    tense: Literal["present", "past"]

    @property
    def id(self) -> str:
        """The id of the fact; it does not depend on the place of the fact in the file."""
        digest = sha256(f"{self.relation}\n{self.subject}".encode()).hexdigest()
        return f"mini-{self.relation}-{digest[:8]}"

    @property
    def clue(self) -> str:
        """The clue that all records about this fact share (`facts.py`)."""
        return f"{self.relation}|{self.subject}"


@dataclass(frozen=True)
class Wording:
    """One statement in all its wordings: one is the prompt, the others are its paraphrases."""

    prompt: str
    paraphrases: tuple[Paraphrase, ...]


def read_facts(path: Path) -> tuple[Mapping[str, Relation], tuple[Fact, ...]]:
    """Reads the facts in the file `path` (facts.tsv) and the relations in the same folder.

    Raises:
        BadFile: a line or a pattern does not have the form described above.
    """
    beside = path.with_name("relations.yaml")
    found = as_mapping(read_yaml(beside), beside)
    relations = {name: validated(Relation, fields, f"{beside}: {name}") for name, fields in found.items()}
    for name, relation in relations.items():
        _check(name, relation, beside)
    return relations, tuple(_facts(path, relations))


def wording(patterns: Sequence[str], fact: Fact, object_: str) -> Wording:
    """Makes a sentence about a fact from each pattern. One that is not held out is the prompt.

    Which one it is depends on a hash of the fact, so that the prompts of a relation are worded differently.
    """
    texts = [sentence(pattern, fact, object_) for pattern in patterns]
    n_seen = len(texts) - HELD_OUT
    first = int(sha256(f"{fact.id}\n{object_}".encode()).hexdigest(), 16) % n_seen
    return Wording(
        texts[first],
        tuple(
            Paraphrase(text, "kebench", held_out=place >= n_seen)
            for place, text in enumerate(texts)
            if place != first
        ),
    )


def completions(claims: Sequence[str], fact: Fact) -> Wording:
    """Makes statements to complete from the claims that end with the object: `Rome lies in`, `Rome is a`."""
    n_seen = len(claims) - HELD_OUT
    texts: dict[str, bool] = {}  # in order, with whether each is held out
    for place, claim in enumerate(claims):
        stated = sentence(claim, fact, fact.object)
        if claim.endswith(("[Y].", "[a Y].")):
            texts[stated.removesuffix(f" {fact.object}.")] = place >= n_seen
    seen = [text for text, held_out in texts.items() if not held_out]
    prompt = seen[int(sha256(fact.id.encode()).hexdigest(), 16) % len(seen)]
    others = (Paraphrase(text, "kebench", held_out) for text, held_out in texts.items() if text != prompt)
    return Wording(prompt, tuple(others))


def sentence(pattern: str, fact: Fact, object_: str) -> str:
    """Fills in a pattern. An article at the start is capitalised; a name is left as it is."""
    text = _CHOICE.sub(r"\2" if fact.tense == "past" else r"\1", pattern)
    article = "an" if object_[0].lower() in "aeiou" else "a"
    text = text.replace("[a Y]", f"{article} [Y]").replace("[Y]", object_).replace("[X]", fact.subject)
    return text[0].upper() + text[1:] if text.startswith(("the ", "a ", "an ")) else text


def _facts(path: Path, relations: Mapping[str, Relation]) -> Iterator[Fact]:
    seen: dict[tuple[str, str], int] = {}
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        cells = line.split("\t")
        if number == 1:
            if tuple(cells) != COLUMNS:
                raise BadFile(path, f"found the columns {cells}, wanted {', '.join(COLUMNS)}", place=1)
            continue
        if len(cells) != len(COLUMNS) or not all(cell and cell == cell.strip() for cell in cells):
            raise BadFile(path, f"found {len(cells)} cells, wanted {', '.join(COLUMNS)}", place=number)
        fact = Fact(*cells)  # type: ignore[arg-type]  # the tense is checked below
        if fact.relation not in relations:
            raise BadFile(path, f"relation: found '{fact.relation}', not in relations.yaml", place=number)
        if fact.tense not in ("present", "past"):
            raise BadFile(path, f"tense: found '{fact.tense}', wanted present or past", place=number)
        if fact.object == fact.false:
            raise BadFile(path, f"false: found the object itself, '{fact.false}'", place=number)
        if (earlier := seen.setdefault((fact.relation, fact.subject), number)) != number:
            raise BadFile(path, f"the subject '{fact.subject}' is also in line {earlier}", place=number)
        yield fact


def _check(name: str, relation: Relation, path: Path) -> None:
    for kind, patterns, wanted in (
        ("questions", relation.questions, (1, 0)),
        ("claims", relation.claims, (1, 1)),
    ):
        if len(patterns) <= HELD_OUT:
            raise BadFile(path, f"{name}: {kind}: found {len(patterns)}, wanted more than {HELD_OUT}")
        for pattern in patterns:
            counts = pattern.count("[X]"), pattern.count("[Y]") + pattern.count("[a Y]")
            if counts != wanted:
                raise BadFile(
                    path, f"{name}: {kind}: '{pattern}': found [X], [Y] {counts} times, wanted {wanted}"
                )
