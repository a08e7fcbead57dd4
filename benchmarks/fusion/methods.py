"""Ways to a consensus: HyperReg's, what it could be compared with, and other people's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from unittest import mock

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from benchmarks.fusion.registered import Registered, Target
from benchmarks.fusion.structures import Structures, box_of
from benchmarks.registration.measure import similarity
from hyperreg.fusion.local import local
from hyperreg.fusion.qualities import dp_consensus
from hyperreg.fusion.stack import LabelStack, stack_labels
from hyperreg.fusion.staple import staple
from hyperreg.fusion.voting import vote
from hyperreg.imaging.intensity import foreground
from hyperreg.imaging.volume import Volume

Labels = npt.NDArray[np.uint8]
# Left around the labels, voxels: what a window of local voting or a search around it can reach.
MARGIN = 12


@dataclass(frozen=True, eq=False)
class Case:
    """One target with its registered atlases, cut to the box around all labels that take part.

    truth: for measuring, and for the methods that say that they know it. values, longer: data parameters, (A,), of the
    short training and of that with HyperReg's defaults; None if none were learned.
    """

    target: str
    structures: Structures
    image: Volume
    truth: Labels
    atlases: tuple[Registered, ...]
    values: npt.NDArray[np.float64] | None = None
    longer: npt.NDArray[np.float64] | None = None

    @property
    def maps(self) -> list[Labels]:
        return [atlas.labels.array for atlas in self.atlases]

    @property
    def true_dice(self) -> npt.NDArray[np.float64]:
        return np.array([self.structures.dice(self.truth, found) for found in self.maps])

    def stack(self) -> LabelStack:
        return stack_labels([atlas.labels for atlas in self.atlases])


def make_case(
    target: Target,
    atlases: Sequence[Registered],
    structures: Structures,
    values: npt.NDArray | None = None,
    longer: npt.NDArray | None = None,
) -> Case:
    truth = structures.of(target.truth.array)
    maps = [structures.of(atlas.labels.array) for atlas in atlases]
    box = box_of([truth, *maps], MARGIN)
    affine = target.image.ijk_to_ras.copy()
    affine[:3, 3] = target.image.grid.to_ras([part.start for part in box])

    def cut(array: npt.NDArray, name: str) -> Volume:
        return Volume(np.ascontiguousarray(array[box]), affine, name)

    cropped = tuple(
        Registered(atlas.atlas, atlas.quality, cut(atlas.image.array, atlas.atlas), cut(labels, atlas.atlas))
        for atlas, labels in zip(atlases, maps, strict=True)
    )
    return Case(
        target.name, structures, cut(target.image.array, "target"), cut(truth, "").array, cropped, values, longer
    )


def random_atlas(case: Case) -> Labels:
    """One atlas, drawn by the target's name."""
    return case.maps[int(np.random.default_rng(int(case.target)).integers(len(case.atlases)))]


def most_similar(case: Case) -> Labels:
    """The atlas whose registered image has the largest local correlation with the target's."""
    inside = foreground(case.image)
    scores = [similarity(case.image.array, atlas.image.array, inside) for atlas in case.atlases]
    return case.maps[int(np.argmax(scores))]


def majority(case: Case) -> Labels:
    return vote(case.stack()).labels.array.astype(np.uint8)


def staple_(case: Case) -> Labels:
    return staple(case.stack()).labels.array.astype(np.uint8)


def local_(case: Case) -> Labels:
    return local(case.stack(), case.image, [atlas.image for atlas in case.atlases]).labels.array.astype(np.uint8)


def data_parameters(case: Case) -> Labels:
    return _by_values(case, case.values, None)


def data_parameters_defaults(case: Case) -> Labels:
    """Learned with HyperReg's own settings."""
    return _by_values(case, case.longer, None)


def data_parameters_paper(case: Case) -> Labels:
    """With the public code's temperature."""
    return _by_values(case, case.values, 1.0)


def _by_values(case: Case, values: npt.NDArray[np.float64] | None, temperature: float | None) -> Labels:
    if values is None:
        raise LookupError("no such data parameters were learned for it")
    return dp_consensus(case.stack(), values, temperature).labels.array.astype(np.uint8)


def oracle_atlas(case: Case) -> Labels:
    """The atlas with the largest Dice with the truth."""
    return case.maps[int(np.argmax(case.true_dice))]


def oracle_weights(case: Case) -> Labels:
    """As data parameters, with the true Dice in their place."""
    return dp_consensus(case.stack(), case.true_dice).labels.array.astype(np.uint8)


def itk_voting(case: Case) -> Labels:
    """SimpleITK's LabelVoting; undecided voxels are background, as the user of the bare filter would have it."""
    method = sitk.LabelVotingImageFilter()
    method.SetLabelForUndecidedPixels(0)
    return _array(method.Execute(_images(case)))


def itk_staple(case: Case) -> Labels:
    """SimpleITK's STAPLE above 0.5, or MultiLabelSTAPLE, undecided voxels background: with their defaults."""
    if case.structures.merged:
        return (_array(sitk.STAPLE(_images(case), 1.0)) > 0.5).astype(np.uint8)
    method = sitk.MultiLabelSTAPLEImageFilter()
    method.SetLabelForUndecidedPixels(0)
    return _array(method.Execute(_images(case)))


def joint_label_fusion(case: Case) -> Labels:
    """antspyx: joint label fusion with its defaults, where any atlas has a label.

    It takes 0 for no label at all and never decides for it: the background is shown to it as a label of its own.
    """
    import ants

    def image(array: npt.NDArray) -> object:
        return ants.from_numpy(array.astype(np.float32))

    inside = np.any([labels > 0 for labels in case.maps], axis=0)
    found = ants.joint_label_fusion(
        image(case.image.array),
        image(inside),
        [image(atlas.image.array) for atlas in case.atlases],
        label_list=[image(labels + 1) for labels in case.maps],
    )
    decided = np.rint(found["segmentation"].numpy()).astype(np.uint8)
    return np.where(inside & (decided > 0), decided - 1, 0).astype(np.uint8)


def simple_package(case: Case) -> Labels:
    """LabelFusion's SIMPLE, for each label against the rest, with its defaults.

    One label at a time: given several, the package looks for their values in maps of zeros and ones, and finds nothing.
    As it is (1.0.15), it never drops a label map: it keeps those of (Dice + 1)^2 above a twentieth of the largest, and
    that is all of them, because the threshold that it raises with every iteration is not the one that it compares with.
    What is left is a vote weighted by (Dice + 1)^2.
    """
    # The package asks for its version through a module that setuptools no longer has.
    sys.modules.setdefault("pkg_resources", mock.MagicMock())
    from LabelFusion.wrapper import fuse_images

    def fuse(maps: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        images = [sitk.GetImageFromArray(one.astype(np.uint8).transpose(2, 1, 0)) for one in maps]
        return _array(fuse_images(images, "simple", [0, 1])) > 0

    return _label_by_label(case, fuse)


def simple(case: Case) -> Labels:
    """SIMPLE after its paper, for each label against the rest: label maps are dropped and the others vote again.

    Langerak et al., "Label fusion in atlas-based segmentation using a selective and iterative method for performance
    level estimation (SIMPLE)", IEEE TMI 2010. Written here, because the package drops none.
    """
    return _label_by_label(case, select_and_vote)


# SIMPLE drops label maps whose Dice with the estimate is more than so many SDs below the mean, as long as more than so
# many are left.
DROPPED_SDS, FEWEST = 1.0, 3


def select_and_vote(maps: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """SIMPLE of one structure. maps: (A, I, J, K)."""
    estimate = maps.mean(axis=0) > 0.5
    while len(maps) > FEWEST:
        sizes = maps.reshape(len(maps), -1).sum(axis=1) + estimate.sum()
        each = 2 * (maps & estimate).reshape(len(maps), -1).sum(axis=1) / np.maximum(sizes, 1)
        kept = each >= each.mean() - DROPPED_SDS * each.std()
        if kept.sum() < FEWEST:
            kept = each >= np.sort(each)[-FEWEST]
        maps, each = maps[kept], each[kept]
        weights = each if each.sum() > 0 else np.ones(len(each))
        before, estimate = estimate, np.tensordot(weights / weights.sum(), maps.astype(np.float64), 1) > 0.5
        if kept.all() and np.array_equal(before, estimate):
            break
    return estimate


def _label_by_label(case: Case, fuse: Callable[[npt.NDArray[np.bool_]], npt.NDArray[np.bool_]]) -> Labels:
    """Every label in its own box; where several are found, the largest number wins."""
    found = np.zeros(case.truth.shape, dtype=np.uint8)
    for label in sorted({int(label) for maps in case.maps for label in np.unique(maps) if label}):
        own = np.stack([maps == label for maps in case.maps])
        box = box_of(list(own), 2)
        found[box][fuse(own[(slice(None), *box)])] = label
    return found


def _images(case: Case) -> list[sitk.Image]:
    return [sitk.GetImageFromArray(labels.transpose(2, 1, 0)) for labels in case.maps]


def _array(image: sitk.Image) -> npt.NDArray:
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0)


@dataclass(frozen=True)
class Method:
    """title: in tables. package: without which it cannot run. all_labels: also run on all 138 labels of the head.

    slow: run last. learned: the field of `Case` with the data parameters that it needs.
    """

    run: Callable[[Case], Labels]
    title: str
    package: str | None = None
    all_labels: bool = True
    slow: bool = False
    learned: str = ""


METHODS = {
    "random": Method(random_atlas, "a random atlas"),
    "similar": Method(most_similar, "the most similar atlas (local NCC)"),
    "vote": Method(majority, "majority vote"),
    "staple": Method(staple_, "STAPLE"),
    "local": Method(local_, "local vote"),
    "dp": Method(data_parameters, "data parameters", learned="values"),
    "dp-defaults": Method(data_parameters_defaults, "data parameters, defaults", learned="longer"),
    "dp-1": Method(data_parameters_paper, "data parameters, temperature 1", learned="values"),
    "oracle-atlas": Method(oracle_atlas, "the best atlas (knows the truth)"),
    "oracle-weights": Method(oracle_weights, "vote weighted by true Dice (knows the truth)"),
    "itk-vote": Method(itk_voting, "SimpleITK LabelVoting"),
    "itk-staple": Method(itk_staple, "SimpleITK STAPLE, bare, in the same box", all_labels=False, slow=True),
    "jlf": Method(joint_label_fusion, "ANTs joint label fusion (antspyx)", "antspyx", all_labels=False, slow=True),
    "simple": Method(simple, "SIMPLE (Langerak 2010, written here)"),
    "simple-package": Method(simple_package, "SIMPLE of LabelFusion (drops nobody)", "LabelFusion"),
}
