"""Stands in for `hyperreg train registration --images FOLDER --state STATE ...`: does what the folder is called."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

from hyperreg.errors import InputError
from hyperreg.overnight import telling


def interrupt(*_signal: Any) -> None:
    raise KeyboardInterrupt


def main(options: dict[str, str]) -> None:
    images = Path(options["--images"])
    signal.signal(signal.SIGTERM, interrupt)
    if images.name == "broken":
        sys.exit("hyperreg: PyTorch is missing.")
    with telling(Path(options["--state"]), images) as tell:
        if images.name == "few":
            raise InputError("There are 3 images; 10 are needed.")
        for step in range(3 if images.name == "quick" else 4000):
            time.sleep(0.03)
            tell(step / 4000, f"Step {step} of {options['--model']}, {options['--minutes']} minutes")
        tell(1.0, "Nothing was gained.")


if __name__ == "__main__":
    main(dict(zip(sys.argv[3::2], sys.argv[4::2], strict=True)))
