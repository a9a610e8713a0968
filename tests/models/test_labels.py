"""A classifier's logits under the labels that its configuration gives them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import tiny
import torch
from transformers import BertConfig

from kebench.errors import BadSetting
from kebench.models.classifier import Classifier
from kebench.models.labels import label_columns
from kebench.models.load import label_fields, load_model
from kebench.models.model import AbstractModel, PromptFormat

TASK = tiny.task("bert")
IN_ORDER = [
    ("REFUTES", "SUPPORTS"),
    ("refutes", "supports"),
    ("Refuted", "Supported"),
    ("refute", "support"),
    ("REFUTATION", "SUPPORTING"),
    ("false", "true"),
    ("CONTRADICTION", "ENTAILMENT"),
    ("contradicts", "entails"),
    ("No", "Yes"),
    ("refuted", "true"),
]
SAY_SOMETHING_ELSE = [
    ("negative", "positive"),
    ("SUPPORTS", "NOT ENOUGH INFO"),
    ("not_entailment", "entailment"),
    ("supports", "Supported"),
    ("LABEL_0", "SUPPORTS"),
]


def saved(folder: Path, *labels: str, one_logit: bool = False) -> Path:
    """A tiny classifier whose configuration names its logits so."""
    words = tiny.TOKENIZERS["bert"]()
    network = tiny.network("bert", words, one_logit=one_logit)
    network.save_pretrained(folder)
    words.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **label_fields(labels)}), encoding="utf-8")
    return folder


def logits_of(model: AbstractModel) -> torch.Tensor:
    prompts = tiny.prompts("bert", 20)
    return model.logits(model.rows(prompts, ["SUPPORTS"] * 20))


@pytest.mark.parametrize("labels", IN_ORDER, ids="-".join)
def test_names_are_read_by_their_meaning(labels: tuple[str, str]) -> None:
    columns = [
        label_columns("m", BertConfig(**label_fields(order)), tiny.LABELS)
        for order in (labels, tuple(reversed(labels)))
    ]
    assert columns == [(0, 1), (1, 0)]


def test_three_labels_in_any_order() -> None:
    config = BertConfig(**label_fields(["c", "A", "b"]))
    assert label_columns("m", config, ("a", "b", "c")) == (1, 2, 0)


def test_labels_that_share_a_stem_are_told_apart_by_their_letters() -> None:
    config = BertConfig(**label_fields(["Sports", "Sport"]))
    assert label_columns("m", config, ("sport", "sports")) == (1, 0)


@pytest.mark.parametrize("labels", SAY_SOMETHING_ELSE, ids="-".join)
def test_names_that_are_not_the_tasks_are_refused(labels: tuple[str, str], tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", *labels)
    with pytest.raises(BadSetting) as caught:
        load_model(str(folder), TASK)
    assert str(caught.value) == (
        f"model {folder}: found the labels {', '.join(labels)}, wanted REFUTES, SUPPORTS"
        " (in its config.json, id2label says which logit is which)"
    )


def test_reversed_labels_give_the_same_answers(tmp_path: Path) -> None:
    """The same classifier with its last layer's rows, and their names, the other way round."""
    plain = load_model(str(saved(tmp_path / "plain", *tiny.LABELS)), TASK)
    folder = saved(tmp_path / "reversed", "Supported", "Refuted")
    network = tiny.network("bert", tiny.TOKENIZERS["bert"]())
    head = network.get_submodule("classifier")
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(parameter.flip(0))
    network.config.update(label_fields(["Supported", "Refuted"]))
    network.save_pretrained(folder)
    turned = load_model(str(folder), TASK)
    prompts = tiny.prompts("bert", 40)
    answers = plain.answer(prompts)
    assert set(answers) == set(tiny.LABELS)
    assert turned.answer(prompts) == answers
    assert turned.prefers(prompts, answers) == [True] * 40
    torch.testing.assert_close(logits_of(turned), logits_of(plain), rtol=0, atol=0)
    for measure in ("margins", "log_odds"):
        found, wanted = (getattr(model, measure)(prompts, answers) for model in (turned, plain))
        assert found == wanted


@pytest.mark.parametrize(
    ("label", "right_way_round"),
    [("LABEL_0", True), ("SUPPORTS", True), ("true", True), ("REFUTES", False), ("refuted", False)],
)
def test_one_logit_belongs_to_the_label_it_is_named_after(
    label: str, right_way_round: bool, tmp_path: Path
) -> None:
    model = load_model(str(saved(tmp_path / "m", label, one_logit=True)), TASK)
    prompts = tiny.prompts("bert", 20)
    rows = model.rows(prompts, ["SUPPORTS"] * 20)
    logit = model.network(**rows.inputs).logits[:, 0]
    assert model.answer(prompts) == [tiny.LABELS[int((value > 0) == right_way_round)] for value in logit]
    assert set(model.answer(prompts)) == set(tiny.LABELS)
    zero, z = (0, 1) if right_way_round else (1, 0)
    assert torch.equal(logits_of(model)[:, z], logit)
    assert not logits_of(model)[:, zero].any()


def test_labels_without_names_are_taken_in_the_tasks_order_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        unnamed = load_model(str(saved(tmp_path / "m", "LABEL_0", "LABEL_1")), TASK)
        assert [record.message for record in caplog.records] == [
            f"model {unnamed.name}: its labels have no names; assumed: REFUTES, SUPPORTS"
        ]
        caplog.clear()
        named = load_model(str(saved(tmp_path / "named", *tiny.LABELS)), TASK)
    assert not caplog.records
    assert named.answer(tiny.prompts("bert")) == unnamed.answer(tiny.prompts("bert"))


def test_a_classifier_made_by_hand_is_read_the_same_way() -> None:
    words = tiny.TOKENIZERS["bert"]()
    network = tiny.network("bert", words)
    network.config.update(label_fields(["supported", "refuted"]))
    made = Classifier("m", network, words, PromptFormat.of(TASK))
    prompts = tiny.prompts("bert", 10)
    other = {"REFUTES": "SUPPORTS", "SUPPORTS": "REFUTES"}
    assert made.answer(prompts) == [other[answer] for answer in tiny.model("bert").answer(prompts)]
