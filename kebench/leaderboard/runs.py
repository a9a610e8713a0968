"""Checks a run's folder before its records are added: its scores must follow from its rows."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kebench.errors import BadFile
from kebench.files.checked import SHA256, Damaged, is_sealed, read_object
from kebench.scoring.protocols import SCORING
from kebench.scoring.record import RunRecord, Setting
from kebench.scoring.regimes import FINAL
from kebench.scoring.rows import (
    BASE,
    ROWS,
    RowsTally,
    digest_of,
    read_base,
    read_trials,
    rows_key,
    unversioned,
)

logger = logging.getLogger(__name__)
RUN = "run.json"
_NEAR = 1e-9
"""How far scores may be apart: sums of the same numbers differ a little from one processor to the next."""


def check_run(record: RunRecord, file: Path) -> None:
    """Compares a record with the folder of the run that it is in.

    Args:
        record: the record.
        file: its file in the run's folder, `<run>/<editor>/record.json`.

    Raises:
        BadFile: a file of the run was altered, or the record does not follow from the others.
    """
    place, run = file.parent, file.parent.parent
    if not (run / RUN).is_file() and not (place / ROWS).is_file():
        logger.warning("%s: is not in a run's folder, so that its scores are believed as they are", file)
        return
    older = _check_setting(run / RUN, record, file)
    if record.scores.protocol.scoring != SCORING:
        version = record.scores.protocol.scoring
        logger.warning("%s: its scores of version %d are believed as they are", file, version)
        return
    setting = record.setting
    base = read_base(run)
    if digest_of(row.to_json() for row in base) != setting.test_sha256:
        raise BadFile(run / BASE, f"not the base answers of {file}; the same run writes them again")
    key = rows_key(setting, record.editor_path, record.editor_settings)
    tally = RowsTally(base, setting)
    for number, trial in enumerate(read_trials(place / ROWS, key, older=older), 1):
        try:
            tally.add(trial)
        except ValueError as error:
            raise BadFile(place / ROWS, str(error), place=number) from None
    if {*tally.edit_seconds, FINAL} != {*record.all_times}:
        raise BadFile(file, f"times: found {record.all_times}, wanted those of {ROWS}; {_AGAIN}")
    for time, scores in tally.scores().items():
        if (different := _difference(record.at(time).scores.to_json(), scores.to_json())) is not None:
            raise BadFile(file, f"scores{different}: not what {ROWS} gives; {_AGAIN}")


_AGAIN = "the same run writes it again"


def _check_setting(run_file: Path, record: RunRecord, file: Path) -> bool:
    """Compares a record with its run's settings. Returns True if the run is older than checksums."""
    try:
        saved = read_object(run_file)
        setting = Setting(**saved["setting"])
        same = unversioned(setting.to_json()) == unversioned(record.setting.to_json())
    except (Damaged, OSError, KeyError, TypeError, AttributeError):
        raise BadFile(run_file, "not a run's settings; remove it, and run again") from None
    if SHA256 in saved and not is_sealed(saved):
        raise BadFile(run_file, "was altered: its checksum is not right; remove it, and run again")
    if SHA256 in saved and not record.sha256:
        raise BadFile(file, f"has no checksum, and the run's other files have; {_AGAIN}")
    if not same:
        raise BadFile(file, f"setting: not that of {run_file}; {_AGAIN}")
    return SHA256 not in saved


def _difference(found: Any, wanted: Any) -> str | None:
    """The first place at which two values of JSON differ, `.name` or `[index]`; None if they agree."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for name in {**found, **wanted}:
            inner = _difference(found.get(name, ...), wanted.get(name, ...))
            if inner is not None:
                return f".{name}{inner}"
        return None
    if isinstance(found, Sequence) and isinstance(wanted, Sequence) and not isinstance(found, str):
        return "" if json.dumps(found) != json.dumps(wanted) else None
    if isinstance(found, float) and isinstance(wanted, float):
        near = math.isclose(found, wanted, rel_tol=_NEAR, abs_tol=_NEAR)
        return None if near or (math.isnan(found) and math.isnan(wanted)) else ""
    return None if found == wanted else ""
