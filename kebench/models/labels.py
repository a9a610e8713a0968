"""Which of a classifier's logits stands for which of a task's labels."""

import re
from collections.abc import Sequence

from transformers import PreTrainedConfig

from kebench.errors import BadSetting

ENDINGS = ("ations", "ation", "ments", "ment", "ions", "ion", "ory", "ing", "ed", "es", "e", "s")
"""What tells inflections of a word apart: supports, supported; refutes, refutation."""
SHORTEST_STEM = 3
SAME_MEANING = (
    frozenset({"support", "tru", "entail", "yes", "correct"}),
    frozenset({"refut", "fals", "contradict", "no", "incorrect"}),
)
"""Stems of words that fact checking and natural language inference use for one another."""
SAYS_NOTHING = re.compile(r"LABEL_\d+")
"""The names that transformers gives to labels that nobody has named."""


def label_columns(name: str, config: PreTrainedConfig, labels: Sequence[str]) -> tuple[int, ...]:
    """The column of the logits that belongs to each label of a task, in the task's order.

    The configuration's `id2label` names the columns. Names are compared by meaning: without case, by their
    stem, and `true`, `entailment` and `yes` are the same as `supports`. Where the names are transformers' own
    (`LABEL_0`), the columns are taken in the task's order. A single logit z counts as the two
    logits (0, z): so its column 1 belongs to the label that it is named after, by default the task's second.

    Args:
        name: the model's, for errors.
        config: of the network.
        labels: the task's.

    Raises:
        BadSetting: there are more or fewer labels than the task has, or their names are not the task's.
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
    """Whether nobody has named a configuration's labels: so their order is anybody's guess."""
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
