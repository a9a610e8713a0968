"""What may be at hand beside the repository: real records, reference numbers. Tests skip where it is not."""

import os
from pathlib import Path

SHARED = Path(os.environ.get("KEBENCH_SHARED") or Path(__file__).parents[2] / "shared")
