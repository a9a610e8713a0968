"""Checks whether an editor keeps the rules of all editors, on a tiny model and a handful of records.

The models are small and have random weights, so that a check takes seconds and needs no network. The checks
show whether an editor keeps its contract, and not whether it edits well.
"""

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from kebench.edits.calls import Caller, FailedEdit, message_of, name_of
from kebench.edits.edit import Edit
from kebench.edits.editor import (
    AbstractEditor,
    AbstractTrainedEditor,
    Carried,
    RetainQuestion,
    State,
    TrainingEdit,
    TrainingSet,
    Workspace,
    check_class,
    editor_key,
    settings_of,
)
from kebench.edits.single import refuse_joint, refuse_shared
from kebench.edits.versions import Routed, Version, Versions, in_force
from kebench.errors import KebenchError
from kebench.files.shipped import MODEL_CARD, shipped_folder
from kebench.files.yaml import validated
from kebench.models.identity import fingerprint
from kebench.models.left_behind import watching
from kebench.models.load import FAMILIES
from kebench.models.model import AbstractModel, PromptFormat
from kebench.packs.record import Record
from kebench.running.preparation import find_pack
from kebench.running.streams import Position
from kebench.running.trial import versions_of_each
from kebench.task import Family, Task, load_task

TASK_OF: Mapping[Family, str] = {"classifier": "fever", "seq2seq": "zsre", "causal": "zsre"}
"""Family → the task whose records and tokenizer come with kebench."""
N_RECORDS = 24
"""The number of records of the train split that an editor learns from. The first of them are edited."""


@dataclass(frozen=True)
class Checked:
    """The outcome of one check.

    Attributes:
        name: the name of the check.
        on: the model, as `classifier` or `seq2seq, bfloat16`; empty if the check needs no model.
        outcome: `ok`, `FAILED` or `skipped`.
        why: the reason, one line; empty for `ok`.
    """

    name: str
    on: str
    outcome: str
    why: str = ""

    def __str__(self) -> str:
        what = f"{self.name} ({self.on})" if self.on else self.name
        return f"{self.outcome} - {what}{': ' if self.why else ''}{self.why}"


class Skipped(Exception):
    """The check does not apply to this editor. The message says why."""


class Broken(Exception):
    """The editor breaks the rule. The message says how."""


@dataclass(frozen=True)
class Bench:
    """An editor, and the model and the records that it is checked with.

    Attributes:
        editor: the editor.
        base: the model.
        records: records of a train split.
    """

    editor: AbstractEditor
    base: AbstractModel
    records: Sequence[Record]

    @cached_property
    def edits(self) -> list[Edit]:
        """Three edits. Targets of generative models have one token, or many."""
        return self._requests(self.records[:3])

    def _requests(self, records: Sequence[Record]) -> list[Edit]:
        said = self.base.answer([record.prompt for record in records])
        labels = self.base.prompt_format.labels
        found = []
        for place, (record, y) in enumerate(zip(records, said, strict=True)):
            words = ("no", "a town by the sea", "the year 1931")
            target = next(label for label in labels if label != y) if labels else words[place % 3]
            found.append(Edit(record.id, record.prompt, y, target, record.subject))
        return found

    @cached_property
    def training(self) -> TrainingSet:
        """The records with the base model's answers. A quarter of them is for choosing a checkpoint."""
        made = [
            TrainingEdit(
                record.fact, replace(edit, paraphrases=tuple(p.text for p in record.paraphrases[:2]))
            )
            for record, edit in zip(self.records, self._requests(self.records), strict=True)
        ]
        questions = [
            RetainQuestion(each.fact, each.edit.prompt, each.edit.prediction)
            for each in made
            if each.edit.prediction.strip()
        ]
        cut = len(made) - len(made) // 4
        return TrainingSet(made[:cut], made[cut:], questions[:cut], questions[cut:], questions[cut:])

    @cached_property
    def state(self) -> State:
        """The editor's state; empty if it learns nothing."""
        return self.learn(0)

    def learn(self, seed: int) -> State:
        """Returns the editor's state, learnt after the global random generators were seeded."""
        if not isinstance(self.editor, AbstractTrainedEditor):
            return {}
        learner = self.editor.prepared_by()
        with tempfile.TemporaryDirectory() as folder, _from_seed(seed):
            work = Path(folder) / "work"
            work.mkdir()
            workspace = Workspace(work, lambda *_: None)
            with watching([self.base]):
                return learner.prepare(self.base, self.training, workspace)

    def make(self, edits: Sequence[Edit]) -> Versions:
        """Returns a version for each edit, as in the regime `single`."""
        return versions_of_each(self.editor, self.state, self.base, edits)

    def questions(self) -> list[str]:
        """Returns the prompts that every edited model is asked."""
        return [record.prompt for record in self.records[:6]]


@contextmanager
def _from_seed(seed: int) -> Iterator[None]:
    """Seeds the global random generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    yield


# The checks ------------------------------------------------------------------------------------------


def says_what_it_is(editor: AbstractEditor) -> None:
    """Checks that the class has a citation, families, regimes and a docstring.

    Raises:
        Broken: the citation or the docstring is missing.
        BadFile: another attribute of the class is wrong.
    """
    check_class(type(editor), type(editor).__name__)
    if not editor.is_control and not editor.citation.strip():
        raise Broken("citation: found '', wanted the method's paper, or is_control = True")
    if not (type(editor).__doc__ or "").strip() or str(type(editor).__doc__).startswith(
        f"{type(editor).__name__}("
    ):
        raise Broken("found no docstring, wanted one that says what the editor does")


def settings_are_recordable(editor: AbstractEditor) -> None:
    """Checks that the settings can be written as JSON, and give the same editor when they are read.

    Raises:
        Broken: they cannot, or they do not.
        BadFile: the settings are refused when they are read.
    """
    settings = settings_of(editor)
    try:
        text = json.dumps(settings, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Broken(f"settings cannot be written as JSON ({error})") from None
    again = validated(type(editor), json.loads(text), "settings")
    if again != editor or editor_key(again) != editor_key(editor):
        raise Broken("settings that are written and read again give a different editor")


def learns_the_same(bench: Bench) -> None:
    """Checks that `prepare` does not depend on a global random generator."""
    if not isinstance(bench.editor, AbstractTrainedEditor):
        raise Skipped("it learns nothing")
    first, second = bench.learn(1), bench.learn(2)
    if first.keys() != second.keys() or any(not torch.equal(first[name], second[name]) for name in first):
        raise Broken("the state depends on the global random seed; use a torch.Generator")


def edits_and_leaves_nothing(bench: Bench) -> None:
    """Checks that updates are finite and fit the model, and that the base model is as it was."""
    before = fingerprint(bench.base.network)
    made = bench.make(bench.edits)
    if made.failures:
        raise Broken(f"edits failed: {', '.join(sorted(set(made.failures.values())))}")
    refuse_shared(bench.editor, bench.edits, made)
    made.answer(bench.questions() * 3, [0, 1, 2] * 6, [""] * 18)
    if fingerprint(bench.base.network) != before:
        raise Broken("it changed the base model's weights")


def repeats_itself(bench: Bench) -> None:
    """Checks that updates and answers do not depend on a global random generator."""
    found = []
    for seed in (1, 2):
        batches = [(edit,) for edit in bench.edits]
        with _from_seed(seed), watching([bench.base]):
            carried = [bench.editor.begin(bench.state, bench.base) for _ in batches]
            versions, _ = bench.editor.edit(bench.state, bench.base, batches, carried)
        made = Versions(bench.base, versions)
        found.append((made.updates, made.answer(bench.questions() * 3, [0, 1, 2] * 6, [""] * 18)))
    (updates, answers), (updates_again, answers_again) = found
    for one, other in zip(updates, updates_again, strict=True):
        if one.keys() != other.keys() or any(not _equal(one[name], other[name]) for name in one):
            raise Broken("updates depend on the global random seed; use a torch.Generator")
    if answers != answers_again:
        raise Broken("the answers of edited models depend on the global random seed")


def takes_edits_together(bench: Bench) -> None:
    """Checks that an edit is the same alone and in a group."""
    made = bench.make(bench.edits)
    alone = {place: bench.make([edit]) for place, edit in enumerate(bench.edits)}
    questions = {place: [edit.prompt, *bench.questions()] for place, edit in enumerate(bench.edits)}
    refuse_joint(bench.editor, bench.edits, made, alone, questions, beams=1)


def takes_odd_edits(bench: Bench) -> None:
    """Checks edits with empty, long, repeated or non-Latin prompts, and with targets of many tokens."""
    plain = bench.edits[0]
    many = plain.target if bench.base.prompt_format.labels else "a town by the sea, and the hills behind it"
    odd = {
        "an empty prompt": replace(plain, prompt="", subject=None),
        "a long prompt": replace(plain, prompt=f"{plain.prompt} " * 40),
        "a prompt of other scripts": replace(
            plain, prompt="Где родился 李白? \N{GRINNING FACE}", subject=None
        ),
        "a long target": replace(plain, target=many),
        "a prompt without a subject": replace(plain, subject=None),
        "a target that is the prediction": replace(plain, target=plain.prediction)
        if plain.prediction.strip()
        else plain,
    }
    for name, edit in odd.items():
        _accepted(bench, name, [replace(edit, id="odd")])
    _accepted(bench, "one edit twice", [replace(plain, id="one"), replace(plain, id="two")])


def _accepted(bench: Bench, name: str, edits: Sequence[Edit]) -> None:
    """Makes edits and asks the edited models. A `KebenchError` is allowed, other errors are not."""
    try:
        made = bench.make(edits)
        made.answer(bench.questions(), [0] * 6, [""] * 6)
    except FailedEdit as error:
        if error.mistake is None:
            raise Broken(f"{name}: {error}") from None


def takes_batches(bench: Bench) -> None:
    """Checks that three edits can be made in one model together."""
    if "batch" not in bench.editor.regimes:
        raise Skipped("its regimes do not include batch")
    _one_version(bench, bench.edits, bench.base, [Caller(bench.editor, bench.base).begin(bench.state)])


def takes_sequences(bench: Bench) -> None:
    """Checks edits one after the other, and that carried values are the same after a checkpoint."""
    if "sequential" not in bench.editor.regimes:
        raise Skipped("its regimes do not include sequential")
    caller = Caller(bench.editor, bench.base)
    position = Position(carried=caller.begin(bench.state))
    start = bench.base
    for edit in bench.edits:
        assert position.carried is not None
        version, carried = _one_version(bench, [edit], start, [position.carried])
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "checkpoint"
            try:
                Position(carried=carried).write(file, "check")
            except (TypeError, ValueError) as error:
                raise Broken(f"a carried value cannot be written to a checkpoint ({error})") from None
            again = Position.read(file, str(bench.base.device), "check").carried
        assert again is not None
        if again.data != carried.data or again.tensors.keys() != carried.tensors.keys():
            raise Broken("a carried value changes when it is written and read; a tuple becomes a list")
        position = Position(carried=again)
        if not isinstance(version, Routed) and version:
            start = in_force(start, version)


def _one_version(
    bench: Bench, batch: Sequence[Edit], start: AbstractModel, carried: Sequence[Carried]
) -> tuple[Version, Carried]:
    """Returns the version of one batch, after asking it, and the carried value."""
    caller = Caller(bench.editor, bench.base)
    (version,), (carries,) = caller.edit(bench.state, start, [tuple(batch)], carried)
    made = Versions(start, [version])
    if made.failures:
        raise Broken(f"the batch failed: {made.failures[0]}")
    made.answer(bench.questions(), [0] * 6, [""] * 6)
    return version, carries


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and all(
        torch.equal(tensor, vars(other)[part]) for part, tensor in vars(one).items()
    )


OF_THE_CLASS: tuple[tuple[str, Callable[[AbstractEditor], None]], ...] = (
    ("says what it is", says_what_it_is),
    ("settings can be recorded", settings_are_recordable),
)
ON_A_MODEL: tuple[tuple[str, Callable[[Bench], None]], ...] = (
    ("learns the same every time", learns_the_same),
    ("edits, and leaves nothing behind", edits_and_leaves_nothing),
    ("edits the same every time", repeats_itself),
    ("an edit is the same alone and in a group", takes_edits_together),
    ("odd prompts and targets", takes_odd_edits),
    ("regime batch", takes_batches),
    ("regime sequential", takes_sequences),
)
IN_BFLOAT16 = "edits, and leaves nothing behind"
"""The check that is repeated with a model in bfloat16."""


def check_editor(
    editor: AbstractEditor, task: Task | None = None, model: AbstractModel | None = None
) -> Iterator[Checked]:
    """Checks an editor, and yields the outcome of each check.

    Args:
        editor: the editor.
        task: the task whose family and records are used. By default the checks are repeated with every family
            that the editor serves.
        model: the model to edit; by default a tiny model with random weights.

    Raises:
        KebenchError: the pack of the task cannot be loaded.
    """
    for name, check in OF_THE_CLASS:
        yield _checked(name, "", partial(check, editor))
    families = editor.families if task is None else (task.family,)
    for family in families:
        if family not in editor.families:
            yield Checked("edits", family, "skipped", "the editor does not serve this family")
            continue
        found = task or load_task(TASK_OF[family])
        records = find_pack(found, None).records("train")[:N_RECORDS]
        base = model or tiny_model(family)
        bench = Bench(editor, base, records)
        for name, check_model in ON_A_MODEL:
            yield _checked(name, family, partial(check_model, bench))
        if model is None:
            half = Bench(editor, tiny_model(family, torch.bfloat16), records)
            yield _checked(IN_BFLOAT16, f"{family}, bfloat16", partial(_in_bfloat16, bench, half))


def _in_bfloat16(bench: Bench, half: Bench) -> None:
    """Checks edits of a model in bfloat16, with the state that was learnt in float32."""
    half.__dict__["state"] = bench.state
    edits_and_leaves_nothing(half)


def _checked(name: str, on: str, check: Callable[[], None]) -> Checked:
    """Runs one check and returns its outcome, also if the editor raises an error."""
    try:
        with watching():
            check()
    except Skipped as reason:
        return Checked(name, on, "skipped", str(reason))
    except (Broken, KebenchError, FailedEdit) as reason:
        return Checked(name, on, "FAILED", str(reason))
    except (Exception, SystemExit, GeneratorExit) as error:
        return Checked(name, on, "FAILED", f"{name_of(error)}: {message_of(error)}")
    return Checked(name, on, "ok")


# Tiny models -----------------------------------------------------------------------------------------


def tiny_model(family: Family, dtype: torch.dtype = torch.float32) -> AbstractModel:
    """Returns a small model, always with the same random weights, and a tokenizer shipped with kebench.

    Raises:
        KebenchError: the tokenizer is not part of this installation of kebench.
    """
    task = load_task(TASK_OF[family])
    folder = shipped_folder(task.models[task.default_model].shipped, MODEL_CARD)
    if folder is None:
        raise KebenchError(f"{task.default_model}: does not come with this installation of kebench")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Any = _NETWORKS[family](tokenizer)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.35)  # large enough that answers depend on the prompt
    labels = task.labels if family == "classifier" else ()
    prompts = PromptFormat(max_prompt_tokens=48, max_answer_tokens=8, labels=labels)
    return FAMILIES[family](f"tiny {family}", network.to(dtype), tokenizer, prompts)


def _classifier(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=24, max_position_embeddings=128,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def _seq2seq(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=len(tokenizer), d_model=16, encoder_layers=2, decoder_layers=2,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
            max_position_embeddings=128, bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.eos_token_id, forced_eos_token_id=None,
        )
    )  # fmt: skip


def _causal(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_embd=16, n_layer=4, n_head=2, n_positions=256,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip


_NETWORKS: Mapping[Family, Callable[[PreTrainedTokenizerBase], PreTrainedModel]] = {
    "classifier": _classifier,
    "seq2seq": _seq2seq,
    "causal": _causal,
}
