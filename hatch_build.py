"""Build hook: the wheel carries the models and the sample pair.

An editable install reads them from the source tree, so nothing is copied there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ModelsHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        models = Path(self.root) / "Resources" / "Models"
        if version == "standard" and models.is_dir():
            build_data["force_include"][str(models)] = "hyperreg/models"
        sample = Path(self.root) / "Resources" / "SampleData"
        if version == "standard" and sample.is_dir():
            build_data["force_include"][str(sample)] = "hyperreg/sample_data"
