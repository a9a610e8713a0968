"""Finds out which of a classifier's logits belongs to which label of a task."""

import re
from collections.abc import Sequence

from transformers import PreTrainedConfig

from kebench.errors import BadSetting

ENDINGS = ("ations", "ation", "ments", "ment", "ions", "ion", "ory", "ing", "ed", "es", "e", "s")
"""Endings that are removed to compare words: supports, supported; refutes, refutation."""
SHORTEST_STEM = 3
SAME_MEANING = (
    frozenset({"support", "tru", "entail", "yes", "correct"}),
    frozenset({"refut", "fals", "contradict", "no", "incorrect"}),
)
"""Stems of words that mean the same in fact checking and in natural language inference."""
SAYS_NOTHING = re.compile(r"LABEL_\d+")
"""The default names that transformers gives to labels."""


def label_columns(name: str, config: PreTrainedConfig, labels: Sequence[str]) -> tuple[int, ...]:
    """Returns, for each label of a task, the column of the logits that belongs to it.

    The configuration's `id2label` names the columns. Names are compared by meaning: case is ignored, words
    are compared by their stems, and `true`, `entailment` and `yes` mean the same as `supports`. If the names
    are the defaults of transformers (`LABEL_0`), the columns are assumed to be in the task's order. A single
    logit z is treated as the two logits (0, z): column 1 belongs to the label in `id2label`; if that has a
    default name, to the task's second label.

    Args:
        name: the name of the model, for errors.
        config: the configuration of the network.
        labels: the labels of the task.

    Raises:
        BadSetting: the network's labels differ from the task's, in their number or in their names.
    """
    found = [label for _, label in sorted((config.id2label or {}).items())]
    if max(len(found), 2) != len(labels):
        raise BadSetting(f"model {name}: found {len(found)} labels, wanted {len(labels)}")
    if names_nothing(config):
        return tuple(range(len(labels)))
    for key in (_as_written, _letters, _stem, _meaning):
        wanted = [key(label) for label in labels]
        places = [wanted.index(key(label)) if key(label) in wanted else None for label in found]
        if len(set(wanted)) == len(wanted) and None not in places and len(set(places)) == len(places):
            if len(found) == 1:
                return tuple(int(place == places[0]) for place in range(2))
            return tuple(places.index(place) for place in range(len(labels)))
    raise BadSetting(
        f"model {name}: found the labels {', '.join(found)}, wanted {', '.join(labels)}"
        " (in its config.json, id2label says which logit is which)"
    )


def names_nothing(config: PreTrainedConfig) -> bool:
    """Returns True if all labels of a configuration have default names, so that their order is not known."""
    return all(SAYS_NOTHING.fullmatch(label) for label in (config.id2label or {}).values())


def _as_written(label: str) -> str:
    return label


def _letters(label: str) -> str:
    return re.sub(r"[\W_]+", "", label.casefold())


def _stem(label: str) -> str:
    word = _letters(label)
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= SHORTEST_STEM:
            return word.removesuffix(ending)
    return word


def _meaning(label: str) -> str:
    stem = _stem(label)
    return next((min(words) for words in SAME_MEANING if stem in words), stem)
