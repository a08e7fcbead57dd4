"""Data parameters: how good each label map is, learned beside a network that learns from all of them.

Source: Weihsbach et al., "DeepSTAPLE: Learning to Predict Multimodal Registration Quality for Unsupervised Domain
Adaptation", WBIR 2022, and its public code. A sample is one label map of one target. A network learns to segment from
all samples; then, with the network frozen, a number per sample is moved: up where the network's loss on the sample is
smaller than its weight is worth, down where it is larger. Labels that agree with what can be learned rise.

Ours: a step takes all label maps of its targets at once, under one augmentation, because the network's answer is the
same for all of them. That is as many samples per step at a fraction of the time, so that it runs on a CPU. As every
sample then comes again after few steps, the data parameters stay where they are for `warm_up` steps: an untrained
network knows no good label from a bad one, and what it says first would decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hyperreg.errors import InputError, OutOfMemory
from hyperreg.fusion.learning import Run
from hyperreg.fusion.qualities import DataParameters, DataParameterSettings
from hyperreg.fusion.samples import LabelledTarget, make_samples
from hyperreg.machine import choose_device, is_out_of_memory
from hyperreg.reporting import Cancel, Progress


def train(
    targets: Sequence[LabelledTarget],
    settings: DataParameterSettings | None = None,
    *,
    device: str = "auto",
    folder: Path | None = None,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
    answer: Callable[[DataParameters], None] | None = None,
    enough: Cancel | None = None,
) -> DataParameters:
    """Learn a data parameter for every label map of every target.

    One target is enough; more are better. folder: where the run's progress is kept; what is there of the same images,
    labels and settings is gone on from, anything else is replaced; if it cannot be written, the result says so.
    answer: is given what is known so far, every `answer_every` steps. enough: asked before every step but the first;
    True ends the learning with what is known. Raises InputError, OutOfMemory, and Cancelled, after having kept the
    progress.
    """
    settings = settings or DataParameterSettings()
    names = [target.name for target in targets]
    if len(set(names)) < len(names):
        raise InputError("Two targets have the same name; weights are told apart by names.")
    if progress is not None:
        progress(0.0, "Preparing the label maps")
    samples = make_samples(targets, settings.labels, settings.spacing_mm, settings.most_voxels, settings.margin_mm)
    chosen = choose_device(device)
    try:
        return Run(targets, samples, settings, chosen, folder).until_done(progress, cancelled, answer, enough)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            "There is not enough memory to learn data parameters; use fewer labels, larger voxels (spacing_mm), or "
            "fewer targets per step."
        ) from error
