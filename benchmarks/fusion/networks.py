"""Experiment IV's end: the same small network trained on each kind of consensus, and measured on other subjects.

The targets' consensuses are all that a network sees of labels. Subjects and targets are cut to the box around their
manual labels, so that a network does not have to find the structures, only to draw them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from monai.networks.nets import UNet

from benchmarks.fusion import registered
from benchmarks.fusion.methods import METHODS, Case
from benchmarks.fusion.structures import Structures
from benchmarks.registration.method import cpu_seconds
from hyperreg.fusion.learning import class_weights, sample_losses
from hyperreg.fusion.samples import LabelledTarget, Samples, augmented, make_samples
from hyperreg.fusion.stack import stack_labels
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.volume import Volume

# The kinds of consensus, by their names in METHODS; and the labels that all of them try to replace.
MANUAL = "manual"
KINDS = ("random", "similar", "vote", "staple", "local", "dp-defaults", MANUAL)
SEEDS = (0, 1)
SPACING_MM, MARGIN_MM = 2.0, 12.0
STEPS, PER_STEP, LEARNING_RATE = 300, 2, 4e-3


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a network learns from, and the subjects that it is measured on, all on grids of one shape.

    samples: targets with one label map each, then the held-out subjects. targets: how many of them are targets.
    """

    samples: Samples
    targets: int
    held_out: tuple[registered.Target, ...]


def make_lesson(kind: str, cases: Sequence[Case], targets: Sequence[registered.Target], wanted: Structures) -> Lesson:
    """cases: the targets' registered atlases, see `make_case`; in the order of `targets`."""
    samples, others = _manual(tuple(target.name for target in targets), wanted)
    if kind != MANUAL:
        found = [
            resample(Volume(METHODS[kind].run(case), case.image.ijk_to_ras, kind), grid, interpolation="nearest").array
            for case, grid in zip(cases, samples.grids, strict=False)
        ]
        places = [np.where(np.isin(one, samples.classes), np.searchsorted(samples.classes, one), 0) for one in found]
        labels = tuple(torch.from_numpy(one.astype(np.uint8))[None] for one in places)
        samples = replace(samples, labels=(*labels, *samples.labels[len(targets) :]))
    return Lesson(samples, len(targets), others)


@lru_cache(maxsize=1)
def _manual(targets: tuple[str, ...], wanted: Structures) -> tuple[Samples, tuple[registered.Target, ...]]:
    """Targets and then all other subjects, with their manual labels; and these others."""
    names = (*targets, *(name for name in registered.SUBJECTS if name not in targets))
    subjects = [registered.read_target(name) for name in names]
    labelled = [
        LabelledTarget(
            subject.name,
            subject.image,
            stack_labels([Volume(wanted.of(subject.truth.array), subject.image.ijk_to_ras, MANUAL)]),
        )
        for subject in subjects
    ]
    samples = make_samples(labelled, spacing_mm=SPACING_MM, margin_mm=MARGIN_MM)
    return samples, tuple(subjects[len(targets) :])


def train(lesson: Lesson, seed: int, steps: int = STEPS) -> torch.nn.Module:
    """A U-Net after so many steps on the targets' labels."""
    samples = lesson.samples
    images, labels = samples.images[: lesson.targets], samples.labels[: lesson.targets]
    weights = class_weights(Samples(samples.grids, images, labels, samples.classes, samples.flat))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(3, 1, len(samples.classes), (12, 24, 48), (2, 2), num_res_units=1, norm="batch")
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, steps)
    network.train()
    for step in range(steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randperm(len(images), generator=generator)[:PER_STEP].tolist()
        drawn = [augmented(images[n], labels[n], generator) for n in chosen]
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(torch.stack([image for image, _labels in drawn]))
        loss = sample_losses(logits.float(), [maps for _image, maps in drawn], weights).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def measure(network: torch.nn.Module, lesson: Lesson, wanted: Structures) -> dict[str, float]:
    """Dice with the manual labels on the grid of each held-out subject, by its name."""
    samples, found = lesson.samples, {}
    for number, subject in enumerate(lesson.held_out, start=lesson.targets):
        with torch.no_grad():
            shares = torch.softmax(network(samples.images[number][None])[0], dim=0).numpy()
        grid = samples.grids[number]
        each = [resample(Volume(share, grid.ijk_to_ras, "share"), subject.image.grid).array for share in shares[1:]]
        # Beyond the box all are 0, and there is background.
        best = np.argmax([1 - np.sum(each, axis=0), *each], axis=0)
        labels = samples.classes[best].astype(np.uint8)
        found[subject.name] = wanted.dice(wanted.of(subject.truth.array), labels)
    return found


def run(
    kind: str, seed: int, cases: Sequence[Case], targets: Sequence[registered.Target], wanted: Structures
) -> dict[str, Any]:
    """One training and what it is worth.

    labels_dice: of the labels that it learned from, mean over targets. cpu_s, wall_s: of the training.
    """
    lesson = make_lesson(kind, cases, targets, wanted)
    cpu, wall = cpu_seconds(), time.perf_counter()
    network = train(lesson, seed)
    seconds = {"cpu_s": cpu_seconds() - cpu, "wall_s": time.perf_counter() - wall}
    held_out = measure(network, lesson, wanted)
    own = [1.0 if kind == MANUAL else wanted.dice(case.truth, METHODS[kind].run(case)) for case in cases]
    facts = {"held_out": held_out, "labels_dice": float(np.mean(own)), "targets": " ".join(t.name for t in targets)}
    return {**facts, "dice": float(np.mean(list(held_out.values()))), **seconds}
