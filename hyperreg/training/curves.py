"""What a run writes while it learns: a line per step, a line per validation, and curves for TensorBoard."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Curves:
    """Appends to `log.jsonl` and `validation.jsonl` in `folder`; TensorBoard's files beside them if it is installed."""

    def __init__(self, folder: Path) -> None:
        self.steps = (folder / "log.jsonl").open("a", encoding="utf-8", buffering=1)
        self.validations = (folder / "validation.jsonl").open("a", encoding="utf-8", buffering=1)
        self.writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / "curves"))
        except ImportError:
            log.info("No live curves: `pip install 'hyperreg[train]'` brings TensorBoard. log.jsonl has the figures.")

    def step(self, figures: Mapping[str, float]) -> None:
        """One step's figures; those that are not known for this pair (NaN) are left out of the curves."""
        self.steps.write(json.dumps(figures) + "\n")
        if self.writer is not None:
            for name, value in figures.items():
                if name != "step" and math.isfinite(value):
                    self.writer.add_scalar(f"training/{name}", value, int(figures["step"]))

    def validation(self, step: int, rows: Sequence[Mapping[str, float]]) -> None:
        """A row per lambda, or one row; in TensorBoard a curve per figure and lambda."""
        self.validations.write(json.dumps({"step": step, "rows": rows}) + "\n")
        if self.writer is not None:
            for row in rows:
                place = f"/lambda {row['lambda']:g}" if "lambda" in row else ""
                for name, value in row.items():
                    if name != "lambda" and math.isfinite(value):
                        self.writer.add_scalar(f"validation/{name}{place}", value, step)
            self.writer.flush()

    def close(self) -> None:
        self.steps.close()
        self.validations.close()
        if self.writer is not None:
            self.writer.close()
