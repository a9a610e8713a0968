from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import tiny

from kebench.files.home import home
from kebench.models.identity import fingerprint
from kebench.models.model import AbstractModel
from kebench.packs.record import Paraphrase
from kebench.running.base_answers import _key, answered, differing, differing_decao2021, margins_of, predicted
from kebench.scoring.protocols import DECAO2021, STRICT, Protocol, protocol

LABEL_RULES = protocol("strict", labels=True)


@pytest.fixture
def bert() -> AbstractModel:
    return tiny.model("bert")


@pytest.fixture
def bart() -> AbstractModel:
    return tiny.model("bart")


def ask(model: AbstractModel, rules: Protocol = LABEL_RULES, count: int = 6) -> Any:
    return answered(model, fingerprint(model.network), tiny.records(_kind(model), count), rules)


def _kind(model: AbstractModel) -> str:
    return model.name.removeprefix("tiny-")


# The cache -------------------------------------------------------------------------------------------


def test_a_second_call_reads_the_file(bert: AbstractModel, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ask(bert)
    (file,) = (home() / "answers").iterdir()
    for name in ("answer", "margins", "hypotheses", "decode", "logits"):
        monkeypatch.setattr(bert, name, _never)
    assert ask(bert) == first
    assert [path.name for path in (home() / "answers").iterdir()] == [file.name]
    file.unlink()
    with pytest.raises(AssertionError, match="the model was asked"):
        ask(bert)


def _never(*_: object, **__: object) -> Any:
    raise AssertionError("the model was asked")


def cut_at_a_line_end(content: bytes) -> bytes:
    return b"".join(content.splitlines(keepends=True)[:-1])


def alter_an_answer(content: bytes) -> bytes:
    return content.replace(b"REFUTES", b"SUPPORTS", 1)


DAMAGE = {
    "cut": cut_at_a_line_end,
    "altered": alter_an_answer,
    "without a checksum": lambda content: content.partition(b"\n")[2],
    "another's": lambda content: content.replace(b'{"made_of": "', b'{"made_of": "0', 1),
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_answers_are_made_again_with_a_warning(
    damage: str, bert: AbstractModel, caplog: pytest.LogCaptureFixture
) -> None:
    first = ask(bert)
    (file,) = (home() / "answers").iterdir()
    content = file.read_bytes()
    file.write_bytes(DAMAGE[damage](content))
    assert file.read_bytes() != content
    assert ask(bert) == first
    assert file.read_bytes() == content
    (line,) = caplog.messages
    assert line.startswith(f"{file}: ")


def test_damaged_predictions_are_made_again(bert: AbstractModel, caplog: pytest.LogCaptureFixture) -> None:
    rows = tiny.records("bert", 4)
    identity = fingerprint(bert.network)
    first = predicted(bert, identity, rows, LABEL_RULES)
    (file,) = (home() / "answers").iterdir()
    content = file.read_bytes()
    file.write_bytes(cut_at_a_line_end(content))
    assert predicted(bert, identity, rows, LABEL_RULES) == first
    assert file.read_bytes() == content
    assert len(caplog.messages) == 1


def test_what_is_read_is_what_was_written(bart: AbstractModel) -> None:
    first = ask(bart, STRICT)
    assert ask(bart, STRICT) == first
    assert all(isinstance(r.gold, tuple) and isinstance(r.paraphrases, tuple) for r in first)


def test_the_key_holds_all_that_matters_and_nothing_else(bert: AbstractModel) -> None:
    rows = tiny.records("bert", 3)
    weights = fingerprint(bert.network)
    key = partial(_key, targets="alternative")
    plain = key(bert, weights, rows, LABEL_RULES)
    assert plain == key(tiny.model("bert"), weights, rows, replace(LABEL_RULES, name="other"))
    other_format = tiny.model("bert", prompt_format=replace(bert.prompt_format, max_prompt_tokens=5))
    different = {
        key(bert, fingerprint(tiny.model("bert", seed=1).network), rows, LABEL_RULES),
        key(other_format, weights, rows, LABEL_RULES),
        key(bert, weights, rows[:2], LABEL_RULES),
        key(bert, weights, [*rows[:2], replace(rows[2], prompt="other")], LABEL_RULES),
        key(bert, weights, [*rows[:2], replace(rows[2], fact="other")], LABEL_RULES),
        key(bert, weights, [*rows[:2], replace(rows[2], answers=("REFUTES", "x"))], LABEL_RULES),
        key(bert, weights, [*rows[:2], replace(rows[2], paraphrases=(Paraphrase("a", "b"),))], LABEL_RULES),
        key(bert, weights, rows, replace(LABEL_RULES, beams=5)),
        key(bert, weights, rows, replace(LABEL_RULES, gold_equality="raw")),
        key(bert, weights, rows, LABEL_RULES, targets="gold"),
    }
    assert len(different) == 10
    assert plain not in different


def test_the_fingerprint_sees_one_weight(bert: AbstractModel) -> None:
    before = fingerprint(bert.network)
    next(iter(bert.network.parameters())).data[0, 0] += 1e-3
    assert fingerprint(bert.network) != before


# What is found ---------------------------------------------------------------------------------------


def test_answers_are_the_models(bert: AbstractModel) -> None:
    rows = tiny.records("bert", 6)
    for record, found in zip(rows, ask(bert), strict=True):
        assert found.prediction == bert.answer([record.prompt])[0]
        assert [p.answer for p in found.paraphrases] == bert.answer([p.text for p in record.paraphrases])
        assert [p.text for p in found.paraphrases] == [p.text for p in record.paraphrases]
        assert found.correct == (found.prediction == record.answers[0])
        assert (found.id, found.fact, found.gold, found.subject) == (
            record.id, record.fact, record.answers, record.subject,
        )  # fmt: skip
        assert found.margin >= 0


@pytest.mark.parametrize("rules", [STRICT, DECAO2021])
def test_answers_of_a_generating_model_are_decoded_as_the_protocol_says(
    rules: Protocol, bart: AbstractModel
) -> None:
    rows = tiny.records("bart", 6)
    for record, found in zip(rows, ask(bart, rules), strict=True):
        assert found.prediction == bart.answer([record.prompt], beams=rules.beams)[0]
        texts = [p.text for p in record.paraphrases]
        assert [p.answer for p in found.paraphrases] == bart.answer(texts, beams=rules.beams)


def test_the_alternative_is_another_answer(bert: AbstractModel, bart: AbstractModel) -> None:
    for found in ask(bert):
        assert found.alternatives == tuple(label for label in tiny.LABELS if label != found.prediction)
        assert found.target == found.alternatives[0]
    some = 0
    for found in ask(bart, STRICT, count=12):
        assert found.prediction not in found.alternatives
        assert len(set(found.alternatives)) == len(found.alternatives) <= 5
        some += bool(found.alternatives)
        assert (found.target in found.alternatives) if found.alternatives else (found.target is None)
    assert some


def test_the_target_is_drawn_by_the_records_id_alone(bart: AbstractModel) -> None:
    rows = tiny.records("bart", 12)
    together = {r.id: r for r in answered(bart, "w", rows, STRICT)}
    several = next(r for r in together.values() if len(r.alternatives) > 1)
    assert several.target == random.Random(f"target:{several.id}").choice(several.alternatives)
    (alone,) = answered(bart, "w", [row for row in rows if row.id == several.id], STRICT)
    assert alone.target == several.target
    names = [f"other {number}" for number in range(8)]
    (one,) = [row for row in rows if row.id == several.id]
    renamed = answered(bart, "w", [replace(one, id=name) for name in names], STRICT)
    assert len({found.target for found in renamed}) > 1


def test_gold_targets_cost_no_beams_and_keep_a_file_of_their_own(
    bart: AbstractModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tiny.records("bart", 6)
    usual = answered(bart, "w", rows, STRICT)
    monkeypatch.setattr(bart, "hypotheses", _only_greedy(bart.hypotheses))
    found = answered(bart, "w", rows, STRICT, targets="gold")
    assert found == tuple(replace(record, alternatives=(), target=None) for record in usual)
    assert answered(bart, "w", rows, STRICT) == usual


def _only_greedy(hypotheses: Any) -> Any:
    def ask(prompts: Sequence[str], beams: int, **under: Any) -> Any:
        assert beams == 1, "beams were asked for"
        return hypotheses(prompts, beams, **under)

    return ask


def test_progress_is_told(bert: AbstractModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kebench.running.base_answers.AT_ONCE", 4)
    told: list[tuple[int, int]] = []
    answered(
        bert, "w", tiny.records("bert", 6), LABEL_RULES, lambda done, total, _: told.append((done, total))
    )
    assert told == [(0, 6), (4, 6), (6, 6)]


def test_parts_do_not_change_the_answers(bert: AbstractModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ask(bert)
    (file,) = (home() / "answers").iterdir()
    file.unlink()
    monkeypatch.setattr("kebench.running.base_answers.AT_ONCE", 4)
    assert ask(bert) == whole


def test_an_empty_answer_has_margin_0(bart: AbstractModel) -> None:
    prompts = tiny.prompts("bart", 3)
    first, second = bart.answer(prompts[:2])
    found = margins_of(bart, prompts, [first, "", second])
    assert found[1] == 0.0
    assert found[0] == round(bart.margins(prompts[:1], [first])[0], 4)


# De Cao et al.'s rule --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidates", "prediction", "kept"),
    [
        # Normalised: lower case, no space, no punctuation; articles stay.
        (["Oslo"], "Oslo", []),
        (["OS LO!"], "Oslo", []),
        # Shorter than 5 characters, once normalised: any other string will do.
        (["Rome"], "Roma", ["Rome"]),
        (["R."], "Roma", ["R"]),
        (["The Rom"], "Roma", []),  # "therom", no longer short: 3 away and 1 more
        # 5 characters and more: more than 4 edits away. Paris → Parma is 2, Paris → London 6.
        (["Parma"], "Paris", []),
        (["London"], "Paris", ["London"]),
        (["abcde"], "vwxyz", ["abcde"]),  # 5 edits
        (["abcdz"], "vwxyz", []),  # 4 edits
        # Full stops at the ends go before anything else.
        (["London.", ".London..", "London"], "Paris", ["London"]),
        # The order of the beams is kept, doubles go.
        (["London", "Lisbon City", "London", "Oslo"], "Paris", ["London", "Lisbon City", "Oslo"]),
        # What is empty once normalised is no answer.
        (["", ".", " ... ", "?!"], "Paris", []),
        ([], "Paris", []),
        (["Paris"], "", ["Paris"]),
    ],
)
def test_candidates_far_enough(candidates: Sequence[str], prediction: str, kept: list[str]) -> None:
    assert differing(candidates, prediction) == tuple(kept)


@pytest.mark.parametrize(
    ("candidates", "prediction", "kept"),
    [
        # All full stops go, after the comparison; doubles then merge.
        (["St. Louis Cardinals", "St Louis Cardinals."], "St. Louis", ["St Louis Cardinals"]),
        # Under 5 characters as they stand: "Leon." has 5, and is 1 edit away.
        (["Leon.", "Leon"], "Lyon", ["Leon"]),
        # What is left may be blank.
        (["", ".", "...", " "], "Paris", ["", " "]),
    ],
)
def test_candidates_as_de_cao_et_al_keep_them(
    candidates: Sequence[str], prediction: str, kept: list[str]
) -> None:
    assert differing_decao2021(candidates, prediction) == tuple(kept)


def test_decao2021_asks_for_alternatives_by_their_rule_but_for_no_blank_one(
    bart: AbstractModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    beams = ["Oslo", "St. Louis", ".", "Riga", "Bern."]
    monkeypatch.setattr(type(bart), "hypotheses", lambda *_, **__: [beams] * 2)
    monkeypatch.setattr(type(bart), "answer", lambda _self, prompts, **__: ["Oslo"] * len(prompts))
    for rules, others in ((DECAO2021, ("St Louis", "Riga")), (STRICT, ("St. Louis", "Riga", "Bern"))):
        assert {record.alternatives for record in ask(bart, rules, count=2)} == {others}


STORED = {"prediction": "Lima.", "alternatives": ("Lima", "St. Louis")}


def test_decao2021_takes_what_is_stored_and_keeps_what_the_model_says(bart: AbstractModel) -> None:
    plain, other = tiny.records("bart", 2)
    records = [replace(plain, **STORED), other]  # type: ignore[arg-type]
    said = bart.answer([plain.prompt], beams=5)[0]
    first, second = answered(bart, "bart", records, DECAO2021)
    assert (first.prediction, first.stored, first.own, first.said) == ("Lima.", "Lima.", said, said)
    assert first.alternatives == (
        "Lima",
        "St. Louis",
    )  # one is y: an edit may be true already
    assert first.target in first.alternatives
    assert (second.stored, second.own, second.said) == (None, None, second.prediction)

    (strict, _) = answered(bart, "bart", records, STRICT)
    assert strict.stored is None
    assert strict.prediction == strict.said == bart.answer([plain.prompt])[0]


def test_decao2021_asks_for_the_first_label_that_is_stored(bert: AbstractModel) -> None:
    (plain,) = tiny.records("bert", 1)
    stored = replace(plain, prediction="SUPPORTS", alternatives=("SUPPORTS", "REFUTES"))
    (found,) = answered(bert, "bert", [stored], protocol("decao2021", labels=True))
    assert (found.prediction, found.target) == ("SUPPORTS", "SUPPORTS")


def test_another_rule_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kebench.running.base_answers.Levenshtein.distance", lambda *_: 5)
    assert differing(["Parma"], "Paris") == ("Parma",)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
