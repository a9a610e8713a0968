"""What a run is asked to do, checked before anything heavy is imported."""

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
    """What a run is asked to do.

    Each field is a flag of `kebench run`, a field of its `--config` file, and an argument of
    `kebench.evaluate`; the text beside its type explains it, and is the flag's help.
    """

    editors: Annotated[
        tuple[str, ...],
        "Editors: names, YAML paths or module:Class; with @recipe and +variant behind a name or a path.",
    ]
    task: Annotated[str, "A task's name, or a YAML path."]
    model: Annotated[str | None, "One of the task's models, a folder, or a Hub id. Default: the pack's."] = (
        None
    )
    pack: Annotated[str | None, "One of the task's packs, or a folder. Default: the task's."] = None
    settings: Annotated[
        Mapping[str, Any], "Settings of the editors that replace those of their files, as NAME=VALUE."
    ] = field(default_factory=dict)
    limit: Annotated[int | None, "How many edits; 0: all. Default: the task's."] = None
    precision: Annotated[
        float | None,
        "Edit until retain accuracy is known to ± POINTS percentage points, the half-width of its 95 %"
        " interval (which takes 250 / POINTS edits at least); the limit, by default all, is then the most"
        " edits it may take.",
    ] = None
    seed: Annotated[int, "Of the choice of edits, and of the intervals. Default: 0."] = 0
    protocol: Annotated[str, "strict (default) or decao2021."] = "strict"
    targets: Annotated[Targets, "alternative (default): another answer; gold: correct what is wrong."] = (
        "alternative"
    )
    retain: Annotated[
        int | Literal["exact"] | None,
        "Test questions asked of each edit, or 'exact' for all. Default: the task's.",
    ] = None
    retain_seed: Annotated[
        int, "Of the choice of those questions; another seed asks the same edits other questions. Default: 0."
    ] = 0
    split: Annotated[
        Split,
        "test (default); dev, to choose an editor's settings with: the half of the dev split from which no"
        " editor learns, without held-out wordings and relations.",
    ] = "test"
    regime: Annotated[
        str,
        "single (default): every edit starts from the base model; batch: --batch edits are put into one model"
        " at once; sequential: a model is edited again and again.",
    ] = "single"
    edits: Annotated[int | None, "How many edits follow each other in one model, in sequential."] = None
    batch: Annotated[int | None, "How many edits are put into a model at once. Default: 1 in sequential."] = (
        None
    )
    ask_after: Annotated[
        tuple[int, ...],
        "After how many edits of a sequence all edits so far are asked about, as numbers with commas; at its"
        " end they always are.",
    ] = ()
    output: Annotated[str | None, "The run's folder. Default: runs/<task>-<key of the setting>."] = None
    device: Annotated[str | None, "cpu, cuda, cuda:1, mps. Default: cuda if there is one."] = None
    dtype: Annotated[
        DType, "float32 (default), tf32 (on cuda) or bfloat16; tables keep results of each apart."
    ] = "float32"
    batch_size: Annotated[
        BatchSize,
        "Rows a forward pass. Default: auto, as many as should fit. Halved whenever memory runs out.",
    ] = "auto"

    def as_regime(self) -> Regime:
        """The regime that `regime`, `edits`, `batch` and `ask_after` mean.

        Raises:
            BadSetting: they do not go together.
        """
        return Regime.of(self.regime, edits=self.edits, batch=self.batch, ask_after=self.ask_after)

    def check(self) -> None:
        """Makes sure of what the types do not say.

        Raises:
            NotFound: there is no such protocol.
            BadSetting: a number is out of range, or a word is none of those there are.
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
            raise BadSetting(f"precision: found it with the regime {self.regime}, wanted it with single")
        if self.limit is not None and self.limit < 0:
            raise BadSetting(f"limit: found {self.limit}, wanted 0 (all) or more")
        if self.precision is not None and not 0 < self.precision < 50:
            raise BadSetting(
                f"precision: found {self.precision:g}, wanted percentage points, more than 0 and less than 50"
            )
        if (
            self.retain is not None
            and self.retain != "exact"
            and not (isinstance(self.retain, int) and self.retain >= STRATA)
        ):
            raise BadSetting(
                f"retain: found {self.retain}, wanted {STRATA} or more (one a stratum), or 'exact'"
            )
