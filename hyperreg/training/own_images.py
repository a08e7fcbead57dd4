"""Adapting a registration model to a folder of one's own images, without label maps: on this machine, resumable.

The hypernetwork goes on learning from pairs of the images, with HyperMorph's loss of images and smoothness. Some images
are held out: the adapted model is taken over only if their pairs are registered better than before.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from hyperreg.catalogue import own_models
from hyperreg.errors import FileError, HyperRegError, InputError
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.intensity import check_image, foreground, normalise
from hyperreg.imaging.output import make_folder, replacing, replacing_folder
from hyperreg.imaging.resampling import resample, resample_smoothed
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume
from hyperreg.machine import choose_device
from hyperreg.nets.weights import fast_precision
from hyperreg.registration.catalogue import ModelCard, find_model, list_models, read_card
from hyperreg.registration.grids import network_grid
from hyperreg.registration.linear import align
from hyperreg.registration.model import save_model
from hyperreg.reporting import Progress
from hyperreg.training import engine
from hyperreg.training.config import RegistrationConfig, ValidationRhythm
from hyperreg.training.registration import PairTrainer
from hyperreg.training.starter import images_in, in_time, is_label
from hyperreg.training.synthesis import SyntheticPair

FEWEST_IMAGES = 10
# A fifth of the images is held out, between these numbers; every pair of these is measured, the first so many.
SHARE_HELD_OUT, LEAST_HELD_OUT, MOST_HELD_OUT, MOST_PAIRS = 0.2, 3, 5, 8
# Where similarity is compared before and after.
LAMBDAS = (0.1, 0.3, 0.5)
# A smaller gain of the mean local correlation is none, and more folding than that in exchange is too much, percent.
LEAST_GAIN, MOST_FOLDING = 0.002, 0.01
# Of `smoothness_weight`, where a card does not say with which its model was trained.
USUAL_SMOOTHNESS_WEIGHT = 20.0
# A run is ended by its minutes.
MANY_STEPS = 1_000_000
LEARNING_RATE, WARM_UP = 1e-4, 20


class AdaptationConfig(RegistrationConfig):
    """An adaptation. images: names of the files, in their order."""

    images: list[str]
    validation: ValidationRhythm = ValidationRhythm(every=100)

    def identity(self) -> dict[str, object]:
        return {**super().identity(), "images": self.images, "start_from": self.start_from}


@dataclass(frozen=True)
class PreparedImage:
    """An image in 0..1 on the grid that the network sees; linear: RAS mm of the first image to its own, (4, 4)."""

    image: Volume
    linear: npt.NDArray[np.float64]


@dataclass(frozen=True)
class OwnPairs(Dataset[SyntheticPair]):
    """An endless series of pairs of different images: pair number n is always the same for a seed."""

    images: Sequence[PreparedImage]
    seed: int = 0

    def __getitem__(self, number: int) -> SyntheticPair:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        fixed, moving = torch.randperm(len(self.images), generator=generator)[:2].tolist()
        return pair_of(self.images[fixed], self.images[moving])


def pair_of(fixed: PreparedImage, moving: PreparedImage) -> SyntheticPair:
    """Two images, linearly aligned, on the fixed one's grid; nothing is known of structures or of the true field.

    Local correlation is squared, so it makes sense across contrasts, too.
    """
    linear = moving.linear @ np.linalg.inv(fixed.linear)
    arrays = fixed.image.array, resample(moving.image, fixed.image.grid, Transform((linear,))).array
    images = torch.stack([torch.from_numpy(array.astype(np.float32)) for array in arrays])[None]
    nothing = images.new_zeros(1, 0, *images.shape[2:])
    return SyntheticPair(images, nothing, nothing, None, same_contrast=True)


@dataclass(frozen=True)
class Adapted:
    """What came out of it: the new model, or None if nothing was gained, and the metrics of the held-out pairs, a row
    per lambda, before and after."""

    card: ModelCard | None
    before: list[dict[str, float]]
    after: list[dict[str, float]]

    @property
    def in_words(self) -> str:
        """What came of it."""
        before, after = (_mean(rows, "similarity") for rows in (self.before, self.after))
        what = f"images that it had not learned from: local correlation {before:.3f} before, {after:.3f} now"
        if self.card is None:
            return f"Nothing was gained: the model stays as it was ({what})."
        return f"Adopted as '{self.card.name}', which registers better ({what})."

    @property
    def gain(self) -> float:
        """Of the mean similarity."""
        return _mean(self.after, "similarity") - _mean(self.before, "similarity")


class Adaptation(PairTrainer):
    """A run on one's own pairs; see `engine.Trainer`."""

    config: AdaptationConfig
    lambdas = LAMBDAS

    def __init__(self, config: AdaptationConfig, images: Sequence[PreparedImage]) -> None:
        super().__init__(config)
        count = min(MOST_HELD_OUT, max(LEAST_HELD_OUT, round(SHARE_HELD_OUT * len(images))))
        self.samples = OwnPairs(images[count:], config.seed)
        pairs = [pair_of(fixed, moving) for fixed in images[:count] for moving in images[:count] if fixed is not moving]
        self._held_out = pairs[:MOST_PAIRS]

    def held_out(self) -> list[SyntheticPair]:
        return self._held_out


def adapt(
    folder: Path,
    model: str,
    name: str,
    minutes: float,
    output: Path | None = None,
    resume: bool | Literal["if begun"] = False,
    device: str = "auto",
    steps: int = MANY_STEPS,
    progress: Progress | None = None,
) -> Adapted:
    """Adapt a model to the images of a folder, and add it to the user's models as `name` if that gains something.

    minutes, steps: of training at most, over all resumes. output: of checkpoints and logs; by default in the folder.
    resume: whether to go on with an earlier run, which has to be there, or to do so if there is one.
    Raises InputError, FileError or WeightsError before anything is computed: too few images, one that is there twice,
    none, a name that is taken.
    """
    tell = progress or (lambda _fraction, _text: None)
    base = find_model(model)
    if not base.has_network:
        raise InputError("There is nothing to adapt without a network: name a model ('hyperreg models' lists them).")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"'{name}' cannot be a model's name: use letters, digits, - and _, as in 'my-brains'.")
    if name in {card.name for card in list_models()}:
        raise InputError(
            f"There is a model '{name}' already: remove it first (hyperreg models --remove), or give the adapted one "
            "another name (--name)."
        )
    files = find_images(folder)
    output = (folder / "hyperreg" / name if output is None else output).absolute()
    config = _config(base, name, minutes, steps, output, device, files)
    make_folder(output)
    resume = engine.is_begun(config) if resume == "if begun" else resume
    engine.prepare_output(config, resume)
    images = prepare(files, base, output, lambda fraction, text: tell(0.1 * fraction, text))
    trainer = Adaptation(config, images)
    before = trainer.validate(trainer.held_out())
    engine.run(trainer, resume, lambda fraction, text: tell(0.1 + 0.9 * fraction, text))
    # The run has measured its last step, unless it was over before.
    after = trainer.validation or trainer.validate(trainer.held_out())
    if not is_better(before, after, config.smoothness_weight):
        return Adapted(None, before, after)
    make_folder(own_models())
    with replacing_folder(own_models() / name) as target:
        save_model(trainer.averaged, trainer.card(), target)
    return Adapted(read_card(own_models() / name), before, after)


def is_better(before: Sequence[dict[str, float]], after: Sequence[dict[str, float]], smoothness_weight: float) -> bool:
    """Whether similarity has improved, and not in exchange for roughness: the loss has, too, and no more is folded."""

    def loss(rows: Sequence[dict[str, float]]) -> float:
        return sum(
            (1 - row["lambda"]) * (1 - row["similarity"]) + row["lambda"] * smoothness_weight * row["smoothness"]
            for row in rows
        )

    return (
        _mean(after, "similarity") >= _mean(before, "similarity") + LEAST_GAIN
        and loss(after) < loss(before)
        and _mean(after, "folding_percent") <= _mean(before, "folding_percent") + MOST_FOLDING
    )


def find_images(folder: Path) -> list[Path]:
    """The images of a folder, label maps left out. Raises InputError for too few of them, FileError for no folder."""
    if not folder.is_dir():
        raise FileError(f"'{folder}' is no folder.")
    files = [path for path in images_in(folder) if not is_label(path)]
    if len(files) < FEWEST_IMAGES:
        raise InputError(
            f"'{folder}' has {len(files)} images (NIfTI, NRRD, MetaImage); adapting a model needs {FEWEST_IMAGES} or "
            "more, of different people."
        )
    return files


def prepare(files: Sequence[Path], card: ModelCard, output: Path, tell: Progress) -> list[PreparedImage]:
    """Check the images, align each with the first one, and bring each to its grid; kept in `output` for a next time.

    Raises InputError naming all that cannot be used, and those that are there twice.
    """
    kept = output / "images"
    make_folder(kept)
    problems: list[str] = []
    found: list[PreparedImage] = []
    first: Volume | None = None
    started = time.perf_counter()
    for number, path in enumerate(files):
        left = (time.perf_counter() - started) / max(number, 1) * (len(files) - number)
        about = f"; about {in_time(left)} left" if number else ""
        tell(number / len(files), f"Aligning image {number + 1} of {len(files)}{about}")
        file = kept / f"{path.name}.npz"
        key = " ".join([card.sha256, *(f"{one.stat().st_size} {one.stat().st_mtime_ns}" for one in (files[0], path))])
        prepared = _kept(file, path.name, key)
        if prepared is None:
            try:
                image = check_image(read_volume(path))
                if problems:
                    continue
                if first is None:
                    first = check_image(read_volume(files[0])) if number else image
                prepared = _prepared(image, first, card)
            except HyperRegError as error:
                problems.append(str(error))
                continue
            with replacing(file) as target, target.open("wb") as stream:
                np.savez_compressed(
                    stream, array=prepared.image.array.astype(np.float16), ijk_to_ras=prepared.image.ijk_to_ras,
                    linear=prepared.linear, key=np.array(key),
                )  # fmt: skip
        found.append(prepared)
    problems += [
        f"'{one.image.name}' and '{other.image.name}' are the same image."
        for one, other in combinations(found, 2)
        if np.array_equal(one.image.array, other.image.array)
    ]
    if problems:
        lines = "\n".join(f"- {problem}" for problem in problems)
        raise InputError(f"Some of the files cannot be used; take them out of the folder, or mend them:\n{lines}")
    return found


def _prepared(image: Volume, first: Volume, card: ModelCard) -> PreparedImage:
    linear = np.eye(4) if image is first else align(first, image)
    grid = network_grid(image.grid, foreground(image), card)
    array = normalise(resample_smoothed(image, grid).array).astype(np.float16)
    return PreparedImage(Volume(array, grid.ijk_to_ras, image.name), linear)


def _kept(file: Path, name: str, key: str) -> PreparedImage | None:
    """An image that was prepared before, of the same file, first image and model; None if there is none."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            if str(kept["key"]) != key:
                return None
            return PreparedImage(Volume(kept["array"], kept["ijk_to_ras"], name), kept["linear"])
    except (OSError, ValueError, KeyError, BadZipFile, HyperRegError):
        return None


def _config(
    base: ModelCard, name: str, minutes: float, steps: int, output: Path, device: str, files: Sequence[Path]
) -> AdaptationConfig:
    recipe = base.card.get("recipe") or {}
    where: Literal["cpu", "cuda"] = "cuda" if choose_device(device) == "cuda" else "cpu"
    return AdaptationConfig(
        name=name,
        title=f"{base.title}, adapted",
        description=f"{base.description} Adapted to {len(files)} images of the user's.",
        output=output,
        network=dict(base.network),
        grid=dict(base.card["grid"]),
        steps=steps,
        minutes=minutes,
        learning_rate=LEARNING_RATE,
        warm_up=WARM_UP,
        averaging=0.99,
        device=where,
        precision="bfloat16" if fast_precision(where) == torch.bfloat16 else "float32",
        workers=0,
        checkpoint_every=25,
        data=f"{base.card.get('data', '')} Then {len(files)} images of the user's.".strip(),
        start_from=str(base.folder),
        smoothness_weight=float(recipe.get("smoothness_weight", USUAL_SMOOTHNESS_WEIGHT)),
        default_lambda=base.default_lambda,
        default_gamma=base.other_defaults.get("gamma"),
        images=[path.name for path in files],
    )


def _mean(rows: Sequence[dict[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)
