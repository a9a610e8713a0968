"""Defines the settings of a run. It does not import torch, so that a mistake in them is found quickly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from kebench.errors import BadSetting, NotFound
from kebench.models.settings import BatchSize, DType
from kebench.scoring.protocols import PROTOCOLS, STRATA, Targets
from kebench.scoring.regimes import Regime

Split = Literal["test", "dev"]


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run.

    Each field is an option of `kebench run`, a field of its `--config` file, and an argument of
    `kebench.evaluate`. The text beside its type explains the field, and is the help text of the option.
    """

    editors: Annotated[
        tuple[str, ...],
        "Editors, with commas between them: names, YAML paths or module:Class. A name or a path may end with"
        " @recipe and +variant.",
    ]
    task: Annotated[str, "A task's name, or the path of its YAML file."]
    model: Annotated[str | None, "One of the task's models, a folder, or a Hub id. Default: the pack's."] = (
        None
    )
    pack: Annotated[str | None, "One of the task's packs, or a folder. Default: the task's."] = None
    settings: Annotated[
        Mapping[str, Any], "Settings of the editors, as NAME=VALUE. They replace those of the editors' files."
    ] = field(default_factory=dict)
    limit: Annotated[int | None, "The number of edits; 0: all. Default: the task's."] = None
    precision: Annotated[
        float | None,
        "Make edits until retain accuracy is known to ± POINTS percentage points, the half-width of its 95 %"
        " interval. This needs at least 250 / POINTS edits. --limit is then the largest number of edits, by"
        " default all.",
    ] = None
    seed: Annotated[int, "The seed for the choice of edits and for the intervals. Default: 0."] = 0
    protocol: Annotated[str, "The scoring protocol: strict (default) or decao2021."] = "strict"
    targets: Annotated[
        Targets,
        "The answers that edits ask for. alternative (default): another answer than the base model's; gold:"
        " the right answer, for questions that the base model answers wrongly.",
    ] = "alternative"
    retain: Annotated[
        int | Literal["exact"] | None,
        "The number of test questions asked after each edit, or 'exact' for all. Default: the task's.",
    ] = None
    retain_seed: Annotated[
        int,
        "The seed for the choice of these questions. Another seed asks other questions after the same edits."
        " Default: 0.",
    ] = 0
    split: Annotated[
        Split,
        "The split whose records are edited: test (default) or dev. Use dev to choose an editor's settings."
        " It takes the half of the dev split that no editor is trained with, without held-out wordings and"
        " relations.",
    ] = "test"
    regime: Annotated[
        str,
        "single (default): every edit starts from the base model; batch: --batch edits are put into one model"
        " together; sequential: one model is edited again and again.",
    ] = "single"
    edits: Annotated[
        int | None, "With --regime sequential: the number of edits made one after another in one model."
    ] = None
    batch: Annotated[
        int | None,
        "The number of edits that are put into a model together. Default with --regime sequential: 1.",
    ] = None
    ask_after: Annotated[
        tuple[int, ...],
        "With --regime sequential: after these numbers of edits, all edits so far are asked about. Numbers"
        " have commas between them. At the end of the sequence, all edits are asked about in any case.",
    ] = ()
    output: Annotated[str | None, "The folder for the run. Default: runs/<task>-<key of the setting>."] = None
    device: Annotated[str | None, "The device: cpu, cuda, cuda:1 or mps. Default: cuda if there is one."] = (
        None
    )
    dtype: Annotated[
        DType,
        "The number format: float32 (default), tf32 (on cuda) or bfloat16. Tables keep the results of each"
        " apart.",
    ] = "float32"
    batch_size: Annotated[
        BatchSize,
        "The largest number of rows in a forward pass. Default: auto, as many as should fit into memory. It"
        " is halved when memory runs out.",
    ] = "auto"

    edit_timeout: Annotated[
        float | None,
        "The largest number of seconds that one edit may take. An edit that takes longer is a failed edit."
        " Default: no limit.",
    ] = None
    fail_fast: Annotated[
        bool, "Stop the run at the first edit that fails. Otherwise it is counted, and the run continues."
    ] = False

    def as_regime(self) -> Regime:
        """Returns the regime that `regime`, `edits`, `batch` and `ask_after` describe.

        Raises:
            BadSetting: two of them exclude each other, or one that is needed is missing.
        """
        return Regime.of(self.regime, edits=self.edits, batch=self.batch, ask_after=self.ask_after)

    def check(self) -> None:
        """Checks what types cannot: known names, ranges of numbers, and options that exclude each other.

        Raises:
            NotFound: there is no such protocol.
            BadSetting: a number is out of its range, a word is unknown, or two options exclude each other.
        """
        if self.protocol not in PROTOCOLS:
            raise NotFound("protocol", self.protocol, PROTOCOLS)
        for name, words in (("targets", Targets), ("split", Split), ("dtype", DType)):
            if (found := getattr(self, name)) not in get_args(words):
                *others, last = get_args(words)
                raise BadSetting(f"{name}: found '{found}', wanted {', '.join(others)} or {last}")
        if self.batch_size != "auto" and not (isinstance(self.batch_size, int) and self.batch_size > 0):
            raise BadSetting(f"batch-size: found {self.batch_size}, wanted 1 or more, or 'auto'")
        if self.as_regime().name != "single" and self.precision is not None:
            raise BadSetting(f"precision: found the regime {self.regime}, wanted single")
        if self.limit is not None and self.limit < 0:
            raise BadSetting(f"limit: found {self.limit}, wanted 0 (all) or more")
        if self.precision is not None and not 0 < self.precision < 50:
            raise BadSetting(
                f"precision: found {self.precision:g}, wanted percentage points, more than 0 and less than 50"
            )
        if self.edit_timeout is not None and not 0 < self.edit_timeout < 1e7:
            raise BadSetting(f"edit-timeout: found {self.edit_timeout:g}, wanted a number of seconds above 0")
        if (
            self.retain is not None
            and self.retain != "exact"
            and not (isinstance(self.retain, int) and self.retain >= STRATA)
        ):
            raise BadSetting(
                f"retain: found {self.retain}, wanted {STRATA} or more (one for each stratum), or 'exact'"
            )
