"""Models: cards, weights, zips and bundles of MONAI's: a small corpus, and the verdict on a damaged one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from bundle_examples import write_bundle, zipped
from segmentation_bench import make_card

from hyperreg.registration import catalogue as registration
from hyperreg.registration.model import load_model as load_registration
from hyperreg.registration.model import save_untrained
from hyperreg.segmentation import catalogue as segmentation
from hyperreg.segmentation.bundles import add_model
from hyperreg.segmentation.model import load_model
from Testing.Fuzz.harness import Seed

State = dict[str, torch.Tensor]


def corpus(folder: Path) -> list[Seed]:
    """The files of a registration and a segmentation model, and what others give: a zip and a bundle."""
    folder.mkdir()
    registers, segments = save_untrained(folder / "registration").folder, make_card(folder / "segmentation").folder
    bundle = write_bundle(folder / "bundle")
    seeds = []
    for file in ("card.json", "weights.safetensors"):
        seeds.append(_seed(registers / file, lambda: _registration(registers)))
        seeds.append(_seed(segments / file, lambda: _segmentation(segments)))
    packed = zipped(segments, folder / "packed.zip")
    seeds.append(_seed(packed, lambda: _added(packed, folder / "added")))
    files = ("configs/metadata.json", "configs/inference.json", "models/model.pt")
    return [*seeds, *(_seed(bundle / file, lambda: _added(bundle, folder / "added")) for file in files)]


def _seed(path: Path, read: Callable[[], State]) -> Seed:
    whole = read()
    # Of a card, what the words say may change; the weights are told by their checksum.
    checked = path.suffix != ".json"

    def same(found: State) -> bool:
        return found.keys() == whole.keys() and all(torch.equal(found[name], whole[name]) for name in whole)

    def judge(found: State, _raw: bytes) -> str:
        if checked:
            return "other weights in spite of a checksum"
        return "" if all(bool(torch.isfinite(tensor).all()) for tensor in found.values()) else "weights that are NaN"

    return Seed(path, read, same, judge)


def _registration(folder: Path) -> State:
    card = registration.read_card(folder)
    return load_registration(card, "cpu").state_dict()


def _segmentation(folder: Path) -> State:
    card = segmentation.read_card(folder)
    return load_model(card).state_dict()


def _added(source: Path, place: Path) -> State:
    try:
        return load_model(add_model(source, place)).state_dict()
    finally:
        shutil.rmtree(place, ignore_errors=True)
