"""Figures of a prepared pair: landmarks in mm, and measures of fields on other grids. Oblique, anisotropic, flipped."""

from __future__ import annotations

import numpy as np
import pytest
from cli_pair import grid, head

from hyperreg.errors import InputError
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.catalogue import NO_MODEL
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.response import automatic_lambda
from hyperreg.registration.session import LiveSession

# A turn of 5 degrees about S, and a shift, mm.
ANGLE = np.radians(5)
LINEAR = np.array(
    [
        [np.cos(ANGLE), -np.sin(ANGLE), 0, 3.0],
        [np.sin(ANGLE), np.cos(ANGLE), 0, 2.0],
        [0, 0, 1, -1.0],
        [0, 0, 0, 1],
    ]
)
OFFSET = np.array((3, 0, -4))
POINTS = np.array([[10, -20, 30], [25, -20, 30], [0, -40, 38], [18, -8, 20]], dtype=float)


def images() -> tuple[Volume, Volume]:
    fixed, _ = head(grid((44, 50, 28), (2, 2, 3), (10, -20, 30)), (34, 40, 34), "fixed")
    moving, _ = head(grid((40, 40, 40), (2.5, 2.5, 2.2), (12, -18, 29)), (37, 38, 32), "moving")
    return fixed, moving


def prepared(
    model: str, fixed_points: np.ndarray | None = None, moving_points: np.ndarray | None = None
) -> LiveSession:
    session = LiveSession(model, "cpu")
    session.prepare(*images(), initial=LINEAR, fixed_points=fixed_points, moving_points=moving_points)
    return session


def test_the_distance_of_landmarks_is_in_mm(tiny_model: str) -> None:
    """The moving points are where the field at λ = 0.3 leads, and 5 mm from there: (3, 0, -4)."""
    truth = prepared(tiny_model).transform(0.3).apply(POINTS)
    session = prepared(tiny_model, POINTS, truth + OFFSET)
    figures = session.metrics(0.3)
    assert figures["landmarks_mm"] == pytest.approx(5, abs=1e-4)
    linear = POINTS @ LINEAR[:3, :3].T + LINEAR[:3, 3]
    before = np.linalg.norm(linear - truth - OFFSET, axis=1).mean()
    assert figures["landmarks_mm_before"] == pytest.approx(before, abs=1e-6)
    assert abs(before - 5) > 0.05
    assert session.warnings == []


def test_without_landmarks_there_is_no_such_figure(tiny_model: str) -> None:
    assert "landmarks_mm" not in prepared(tiny_model).metrics(0.5)


def test_lambda_is_found_where_the_landmarks_agree(tiny_model: str) -> None:
    truth = prepared(tiny_model).transform(0.6).apply(POINTS)
    found = automatic_lambda(prepared(tiny_model, POINTS, truth))
    assert (found.lam, found.by) == (0.6, "landmarks")
    assert "0.00 mm" in found.reason


@pytest.mark.parametrize(
    ("fixed_points", "moving_points", "said"),
    [
        (POINTS, None, "one image only: give those of the moving image"),
        (None, POINTS, "one image only: give those of the fixed image"),
        (POINTS, POINTS[:2], "4 landmarks of the fixed image and 2 of the moving one"),
        (POINTS[:, :2], POINTS[:, :2], "three coordinates"),
        (POINTS[:0], POINTS[:0], "three coordinates"),
        (POINTS * np.nan, POINTS, "not a number"),
    ],
)
def test_landmarks_that_are_no_pairs_are_refused(
    tiny_model: str, fixed_points: np.ndarray | None, moving_points: np.ndarray | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        prepared(tiny_model, fixed_points, moving_points)


def test_landmarks_outside_of_their_image_are_told_of(tiny_model: str) -> None:
    """As when a file says RAS but holds LPS."""
    session = prepared(tiny_model, POINTS * (-1, -1, 1), POINTS + LINEAR[:3, 3])
    (warning,) = session.warnings
    assert "1 of 4 landmarks lie outside of the fixed image" in warning


def test_images_are_compared_where_the_masks_let_them_count() -> None:
    """One image has stripes where the other has none: masked, they do not count against the alignment."""
    fixed, moving = images()

    places = Transform((np.linalg.inv(LINEAR),)).apply(moving.grid.points().reshape(-1, 3)).reshape(*moving.shape, 3)
    for volume, where in ((fixed, fixed.grid.points()), (moving, places)):
        inside = np.linalg.norm(where - np.array((10, -20, 30)), axis=-1) < 20
        damaged = [image if image is not volume else striped(image, inside) for image in (fixed, moving)]
        mask = Volume((~inside).astype(np.uint8), volume.ijk_to_ras, "mask")
        session = LiveSession(NO_MODEL, "cpu")
        session.prepare(*damaged, initial=LINEAR, contrast="same")
        plain = session.metrics(1.0, 0)
        session.constrain(Constraints(**{"fixed_mask" if volume is fixed else "moving_mask": mask}))
        masked = session.metrics(1.0, 0)
        for name in ("similarity", "similarity_before", "detail"):
            assert masked[name] > plain[name] + 0.03
        assert masked["roughness"] == plain["roughness"]
        session.constrain(Constraints())
        assert session.metrics(1.0, 0) == plain


def test_a_mask_of_the_moving_image_lies_where_a_deformed_start_brings_it() -> None:
    """The start moves everything by 30 mm: without it the mask would lie beside what it is to leave out."""
    fixed, moving = images()
    shift = np.array((30.0, 0, 0))
    around = grid((44, 50, 50), (4, 4, 4), (10, -20, 30))
    field = np.broadcast_to(shift[:, None, None, None], (3, *around.shape)).astype(np.float32)
    start = Transform((DisplacementField(field, around.ijk_to_ras), LINEAR))
    back = np.linalg.inv(LINEAR)
    # As far away as the start brings it back.
    away = LINEAR @ np.array([[1, 0, 0, 30.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ back
    moving = Volume(moving.array, away @ moving.ijk_to_ras, "moving")
    places = Transform((back,)).apply(moving.grid.points().reshape(-1, 3)).reshape(*moving.shape, 3) - shift
    inside = np.linalg.norm(places - np.array((10, -20, 30)), axis=-1) < 16
    mask = Volume((~inside).astype(np.uint8), moving.ijk_to_ras, "mask")
    session = LiveSession(NO_MODEL, "cpu")
    session.prepare(fixed, striped(moving, inside), initial=start, contrast="same")
    plain = session.metrics(1.0, 0)["similarity"]
    session.constrain(Constraints(moving_mask=mask))
    assert session.metrics(1.0, 0)["similarity"] > plain + 0.03
    everything = Volume(np.ones_like(mask.array), mask.ijk_to_ras, "all")
    session.constrain(Constraints(moving_mask=everything))
    assert session.metrics(1.0, 0)["similarity"] == pytest.approx(plain, abs=1e-6)


def striped(image: Volume, inside: np.ndarray) -> Volume:
    stripes = 100 * (1 + np.sin(image.grid.points()[..., 0] / 3))
    array = np.where(inside, stripes, image.array).astype(np.float32)
    return Volume(array, image.ijk_to_ras, image.name)


def test_a_field_on_another_grid_is_measured_in_the_foreground_there(tiny_model: str) -> None:
    """1 mm in the foreground, 9 mm outside of it, on a grid of the network grid's shape with voxels twice as long."""
    session = prepared(tiny_model)
    affine = session.grid.ijk_to_ras.copy()
    affine[:3, :3] *= 2
    affine[:3, 3] = session.grid.centre - affine[:3, :3] @ ((np.array(session.grid.shape) - 1) / 2)
    coarse = Grid(session.grid.shape, affine)
    fixed, _ = images()
    body = Volume((fixed.array > 0).astype(np.uint8), fixed.ijk_to_ras)
    inside = resample(body, coarse, interpolation="nearest").array > 0
    assert 0.02 < inside.mean() < 0.2
    array = np.zeros((3, *coarse.shape), np.float32)
    array[2] = np.where(inside, 1.0, 9.0)
    field = DisplacementField(array, coarse.ijk_to_ras)
    assert session._figures.measure(field, "cpu")["displacement_mean_mm"] == pytest.approx(1, abs=0.15)


def test_overlap_is_measured_in_all_of_the_image_whatever_the_label_map_was_cut_to(tiny_model: str) -> None:
    """A segmentation saved as its own bounding box gives the Dice of the whole one."""
    fixed, moving = images()
    drawn = [
        Volume((image.array > 0.4 * image.array.max()).astype(np.uint8), image.ijk_to_ras) for image in (fixed, moving)
    ]
    inside = np.argwhere(drawn[0].array)
    low, high = inside.min(axis=0) + 5, inside.max(axis=0) - 4
    whole = drawn[0].array.copy()
    for axis in range(3):
        np.moveaxis(whole, axis, 0)[: low[axis]] = 0
        np.moveaxis(whole, axis, 0)[high[axis] :] = 0
    start = fixed.ijk_to_ras.copy()
    start[:3, 3] = fixed.grid.to_ras(low)
    cut = whole[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    found = []
    for labels in (Volume(whole, fixed.ijk_to_ras), Volume(cut, start)):
        session = LiveSession(tiny_model, "cpu")
        session.prepare(fixed, moving, initial=LINEAR, fixed_labels=labels, moving_labels=drawn[1])
        found.append(session.metrics(0.5))
    assert found[1]["dice"] == found[0]["dice"]
    assert found[1]["dice_before"] == found[0]["dice_before"]
    assert 0.3 < found[0]["dice_mean"] < 0.98
