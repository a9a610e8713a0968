"""What a run is asked to do, checked before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from kebench.errors import BadSetting, NotFound
from kebench.models.settings import BatchSize, DType
from kebench.scoring.protocols import PROTOCOLS, STRATA, Targets
from kebench.scoring.regimes import Regime

Split = Literal["test", "dev"]


@dataclass(frozen=True)
class RunSettings:
    """What a run is asked to do: the flags of `kebench run`, and the fields of its `--config` file.

    Attributes:
        editors: names in `baselines/`, YAML paths or `module:Class`.
        task: a name in `tasks/` or a YAML path.
        model: one of the task's models, a folder, or a Hub id; by default the task's.
        pack: one of the task's packs or a folder; by default the task's.
        limit: how many edits; by default the task's number; 0 for all there are.
        precision: edit until the 95 % interval of retain accuracy is this half-width or less, in percentage
            points; `limit`, by default all there are, is then the most edits it may take.
        seed: of the choice of edits, and of the intervals.
        protocol: `strict` or `decao2021`.
        targets: `alternative` or `gold`.
        retain: how many test questions each edit is asked, or `exact` for all; by default the task's number.
        retain_seed: of the draw of those questions; another one asks the same edits other questions.
        split: `test`, or `dev` to choose settings with: the half of it that editors choose their checkpoints
            with, but learn nothing from; held-out wordings and relations left out.
        regime: `single`, every edit starts from the base model; `batch`, `batch` edits are put into one model
            at once; or `sequential`, a model is edited again and again (`kebench.scoring.regimes`).
        edits: how many edits follow each other in one model; of `sequential` alone.
        batch: how many edits are put into a model at once; 1 by default in `sequential`.
        ask_after: after so many edits of a stream, all edits so far are asked about; at the end, always.
        output: the run's folder; by default one in `runs/` named after the setting.
        device: where to compute: `cpu`, `cuda`, `cuda:1`, `mps`; by default `cuda` if there is one.
        dtype: what to compute in; another one is another setting. `tf32` needs `cuda`.
        batch_size: rows a forward pass; `auto`: as many as should fit. Halved whenever memory runs out.
    """

    editors: tuple[str, ...]
    task: str
    model: str | None = None
    pack: str | None = None
    limit: int | None = None
    precision: float | None = None
    seed: int = 0
    protocol: str = "strict"
    targets: Targets = "alternative"
    retain: int | Literal["exact"] | None = None
    retain_seed: int = 0
    split: Split = "test"
    regime: str = "single"
    edits: int | None = None
    batch: int | None = None
    ask_after: tuple[int, ...] = ()
    output: str | None = None
    device: str | None = None
    dtype: DType = "float32"
    batch_size: BatchSize = "auto"

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
        if self.targets not in ("alternative", "gold"):
            raise BadSetting(f"targets: found '{self.targets}', wanted alternative or gold")
        if self.split not in get_args(Split):
            raise BadSetting(f"split: found '{self.split}', wanted {' or '.join(get_args(Split))}")
        if self.dtype not in get_args(DType):
            raise BadSetting(f"dtype: found '{self.dtype}', wanted {', '.join(get_args(DType))}")
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
