"""Facts into sentences, and the embedded pack made of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from at_hand import SHARED

from kebench.cli import cli
from kebench.errors import BadFile
from kebench.files.shipped import shipped_root
from kebench.packs.formats import read_source
from kebench.packs.pack import Pack, read_pack, verify_pack
from kebench.packs.sentences import HELD_OUT, Fact, Relation, read_facts, sentence, wording
from kebench.scoring.normalise import normalise

FACT = Fact("P1", "the Ark", "Oslo", "Rome", "past")
MINI = shipped_root() / "mini"
TASKS = ("fever", "zsre")


@pytest.mark.parametrize(
    ("pattern", "object_", "tense", "said"),
    [
        ("[X] is in [Y].", "Oslo", "past", "The Ark is in Oslo."),
        ("In [Y] lies [X].", "the Hague", "past", "In the Hague lies the Ark."),
        ("[X] [is|was] [a Y].", "opera", "past", "The Ark was an opera."),
        ("[X] [is|was] [a Y].", "river", "present", "The Ark is a river."),
        ("[a Y], that is [X].", "album", "past", "An album, that is the Ark."),
        ("[Y] [holds|held] [X].", "the BBC", "past", "The BBC held the Ark."),
        ("[Y] made [X].", "iRobot", "past", "iRobot made the Ark."),  # a name keeps its small letter
    ],
)
def test_a_pattern_filled_in(pattern: str, object_: str, tense: str, said: str) -> None:
    assert sentence(pattern, replace(FACT, tense=tense), object_) == said  # type: ignore[arg-type]


def test_one_wording_is_the_prompt_and_the_last_are_held_out() -> None:
    patterns = [f"{number}: [X]?" for number in range(9)]
    prompts = set()
    for name in "abcdefghij":
        worded = wording(patterns, replace(FACT, subject=name), "Oslo")
        prompts.add(worded.prompt[0])
        texts = [worded.prompt, *(each.text for each in worded.paraphrases)]
        assert sorted(texts) == [f"{number}: {name}?" for number in range(9)]
        held_out = {each.text[0] for each in worded.paraphrases if each.held_out}
        assert held_out == set("5678")
    assert len(prompts) > 1  # not always the same pattern
    assert prompts <= set("01234")


def write(folder: Path, facts: str, relations: str) -> Path:
    (folder / "relations.yaml").write_text(relations, encoding="utf-8")
    file = folder / "facts.tsv"
    file.write_text(facts, encoding="utf-8")
    return file


HEADER = "relation\tsubject\tobject\tfalse\ttense\n"
LINE = "P1\tAda\tOslo\tRome\tpast\n"
GOOD = (
    "P1:\n  name: home\n"
    "  questions: ['A [X]?', 'B [X]?', 'C [X]?', 'D [X]?', 'E [X]?']\n"
    "  claims: ['A [X] [Y].', 'B [X] [Y].', 'C [X] [Y].', 'D [X] [Y].', 'E [X] [Y].']\n"
)


@pytest.mark.parametrize(
    ("facts", "relations", "said"),
    [
        (LINE, GOOD, "facts.tsv:1: found the columns"),
        (HEADER + "P1\tAda\tOslo\n", GOOD, "facts.tsv:2: found 3 cells, wanted relation, subject"),
        (HEADER + "P1\tAda \tOslo\tRome\tpast\n", GOOD, "facts.tsv:2: found 5 cells"),
        (HEADER + "P2\tAda\tOslo\tRome\tpast\n", GOOD, "facts.tsv:2: relation: found 'P2'"),
        (HEADER + "P1\tAda\tOslo\tRome\tfuture\n", GOOD, "facts.tsv:2: tense: found 'future'"),
        (HEADER + "P1\tAda\tOslo\tOslo\tpast\n", GOOD, "facts.tsv:2: false: found the object itself"),
        (HEADER + LINE + LINE, GOOD, "facts.tsv:3: the subject 'Ada' is also in line 2"),
        (HEADER, GOOD.replace("'A [X]?', ", ""), "P1: questions: found 4, wanted more than 4"),
        (HEADER, GOOD.replace("'A [X]?'", "'A?'"), "P1: questions: 'A?': found [X], [Y] (0, 0) times"),
        (HEADER, GOOD.replace("A [X] [Y].", "A [X]."), "P1: claims: 'A [X].': found [X], [Y] (1, 0) times"),
        (HEADER, GOOD.replace("name", "nmae"), "P1: nmae: unknown field; did you mean 'name'?"),
    ],
)
def test_faults_are_told_with_their_place(tmp_path: Path, facts: str, relations: str, said: str) -> None:
    with pytest.raises(BadFile, match=re.escape(said)):
        read_facts(write(tmp_path, facts, relations))


def test_a_question_and_two_claims_a_fact(tmp_path: Path) -> None:
    file = write(tmp_path, HEADER + LINE, GOOD.replace("name: home", "name: home\n  held_out: true"))
    (question,) = (entry.record for entry in read_source("mini_zsre", file).entries)
    assert question.answers == ("Oslo",)
    assert (question.subject, question.relation, question.held_out) == ("Ada", "home", True)
    entries = read_source("mini_fever", file).entries
    true, false = (entry.record for entry in entries)
    assert (true.answers, false.answers) == (("SUPPORTS",), ("REFUTES",))
    assert "Oslo" in true.prompt
    assert "Rome" in false.prompt
    assert entries[0].clues == entries[1].clues  # one fact: neither is in the other's retain set


# The pack as it comes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def relations() -> dict[str, Relation]:
    return dict(read_facts(MINI / "facts.tsv")[0])


@pytest.fixture(scope="module")
def facts() -> tuple[Fact, ...]:
    return read_facts(MINI / "facts.tsv")[1]


@pytest.fixture(scope="module", params=TASKS)
def pack(request: pytest.FixtureRequest) -> Pack:
    return read_pack(MINI / request.param)


def test_it_is_as_large_as_it_says(relations: dict[str, Relation], facts: tuple[Fact, ...]) -> None:
    assert len(facts) >= 3000
    assert len(relations) >= 20
    assert sum(relation.held_out for relation in relations.values()) == 2
    for relation in relations.values():
        for patterns in (relation.questions, relation.claims):
            assert len(patterns) - HELD_OUT >= 8
            assert len({normalise(pattern) for pattern in patterns}) == len(patterns)
        assert all(question.endswith(("?", ".")) for question in relation.questions)
        assert all(claim.endswith(".") for claim in relation.claims)


def test_the_object_alone_does_not_tell_a_false_claim(facts: tuple[Fact, ...]) -> None:
    shares = []
    for relation in {fact.relation for fact in facts}:
        mine = [fact for fact in facts if fact.relation == relation]
        true, false = Counter(fact.object for fact in mine), Counter(fact.false for fact in mine)
        # Someone who knew how often each object is right, and nothing else, would guess so many claims.
        right = sum(max(true[name], false[name]) for name in true | false)
        shares.append(right / (2 * len(mine)))
    assert max(shares) < 0.65
    assert sum(shares) / len(shares) < 0.52


@pytest.mark.slow
def test_the_shipped_packs_are_what_the_command_makes(tmp_path: Path) -> None:
    cli.main(["data", "build", "mini", "--out", str(tmp_path)], standalone_mode=False)
    for task in TASKS:
        assert verify_pack(MINI / task).name == "mini"
        for name in ("train.jsonl", "dev.jsonl", "test.jsonl", "pack.lock"):
            assert (tmp_path / task / name).read_bytes() == (MINI / task / name).read_bytes(), name


def test_held_out_relations_are_in_test_alone(pack: Pack) -> None:
    for split, records in pack.splits.items():
        assert any(record.held_out for record in records) == (split == "test")
        assert all(sum(p.held_out for p in record.paraphrases) == HELD_OUT for record in records)


WRONG = re.compile(r"[][|]|(?<!')\b(a) [aeio]|\b(an) [^aeiouAEIOU]|\bthe the\b|\.\.|\?\?")


def test_sentences_are_clean(pack: Pack) -> None:
    for records in pack.splits.values():
        for record in records:
            for text in (record.prompt, *(paraphrase.text for paraphrase in record.paraphrases)):
                assert text == " ".join(text.split())
                assert text[0].isupper() or (record.subject is not None and text.startswith(record.subject))
                assert text[-1] in ".?"
                assert not WRONG.search(text), text


DATA = SHARED / "data"


@pytest.mark.skipif(
    not (DATA / "pararel").is_dir(), reason=f"no published files in {DATA}; set KEBENCH_SHARED"
)
def test_every_fact_is_from_pararel_or_lre(facts: tuple[Fact, ...]) -> None:
    known = set()
    for file in (DATA / "pararel" / "trex_lms_vocab").glob("*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            known.add((file.stem, normalise(row["sub_label"]), normalise(row["obj_label"])))
    sports = json.loads((DATA / "relations" / "factual" / "person_plays_pro_sport.json").read_text("utf-8"))
    for row in sports["samples"]:
        known.add(("P641", normalise(row["subject"]), normalise(row["object"])))
    renamed = {"ice hockey": "hockey", "american football": "football"}
    for fact in facts:
        name = normalise(fact.object)
        assert (fact.relation, normalise(fact.subject), renamed.get(name, name)) in known, fact
