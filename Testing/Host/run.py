"""Runs a scripted module file in the host: its self-test, a screenshot, or both.

python -m Testing.Host HyperRegSlicer/HyperRegSlicer.py --self-test --screenshot module.png
"""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

if __package__ in (None, ""):  # started as a file: make the package importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from Testing.Host.host import start


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if the module loaded, its panel opened, its test passed and no slot raised."""
    parser = argparse.ArgumentParser(prog="python -m Testing.Host", description=__doc__)
    parser.add_argument("module", type=Path, help="the module's .py file, in the source or an installed tree")
    parser.add_argument("--screenshot", type=Path, help="save a picture of the main window here")
    parser.add_argument("--size", default="1400x900", help="of the picture, WIDTHxHEIGHT pixels")
    parser.add_argument("--volume", type=Path, help="load this volume into the views first")
    parser.add_argument("--self-test", action="store_true", help="run the <Module>Test class of the file")
    parser.add_argument("--slicer", default="5.12", help="version to behave as: 5.12 or 5.10")
    options = parser.parse_args(arguments)
    major, minor = (int(part) for part in options.slicer.split("."))
    host = start((major, minor))
    import slicer

    try:
        module = host.load(options.module)
        host.start_up()
        if options.volume is not None:
            slicer.util.setSliceViewerLayers(background=slicer.util.loadVolume(str(options.volume)), fit=True)
        host.widget(module.name)
        if options.self_test:
            slicer.selfTests[module.name](msec=0)
        if options.screenshot is not None:
            width, height = (int(part) for part in options.size.split("x"))
            print(host.screenshot(options.screenshot, size=(width, height)))
    except Exception:  # noqa: BLE001 - every failure is reported and becomes the exit code
        traceback.print_exc()
        return 1
    for error in host.exceptions:
        print(f"exception in a slot: {error!r}", file=sys.stderr)
    return 1 if host.exceptions else 0


if __name__ == "__main__":
    sys.exit(main())
