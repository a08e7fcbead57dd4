"""Other people's registration, as their packages offer it, with the settings that they call standard.

Each is imported when it runs: a package that is not installed is a line in the table, not an error.
Timed is the registration alone: not the import, not the reading, not the conversion of images and results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk

from benchmarks.registration.method import Outcome, Task, Watch
from hyperreg.imaging import itk as bridge
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.linear import align

SEED = 1
# greedy smooths recursively along each axis, which takes four voxels; its third level is four times coarser.
FEWEST_FOR_THREE_LEVELS = 16


def identity(task: Task) -> Iterator[Outcome]:
    """Where the headers put the images."""
    del task
    yield Outcome("identity", Transform(), Watch())


def affine(task: Task) -> Iterator[Outcome]:
    """HyperReg's own linear alignment, from which everything of its starts."""
    fixed, moving = task.read()
    watch = Watch()
    with watch.running():
        matrix = align(fixed, moving, "affine")
    yield Outcome("affine", Transform((matrix,)), watch)


def greedy(task: Task) -> Iterator[Outcome]:
    """picsl_greedy: affine from the images' centres, then its diffeomorphic mode, 100x50x10 iterations each.

    NCC over 5x5x5 voxels on one contrast, NMI, its multi-modal metric, across: its NCC minds the sign of a correlation.
    Where its pyramid would leave fewer than four slices (cine MR) it starts one level finer, 50x10: it refuses else.
    In a small field of view its linear fits run away (affine: collapse; rigid: a turn by 90 degrees with NMI, off the
    cord with NCC): there the deformation starts from the headers.
    """
    from picsl_greedy import Greedy3D

    fixed, moving = (bridge.volume_to_itk(volume, np.float32) for volume in task.read())
    metric = "NMI" if task.case.cross else "NCC 2x2x2"
    levels = "100x50x10" if min(*fixed.GetSize(), *moving.GetSize()) >= FEWEST_FOR_THREE_LEVELS else "50x10"
    common = f"-threads {task.threads} -n {levels}"
    tool = Greedy3D()
    watch = Watch()
    with watch.running():
        if task.case.body == "spine":
            start, affine = "", np.eye(4)
            images = {"fixed": fixed, "moving": moving}
        else:
            linear = f"-a -m {metric} -dof 12 -ia-image-centers"
            tool.execute(f"-i fixed moving {linear} {common} -o affine", fixed=fixed, moving=moving, affine=None)
            start, affine, images = "-it affine", tool["affine"], {}
        tool.execute(f"-i fixed moving {start} -m {metric} {common} -o warp", **images, warp=None)
    yield Outcome("greedy", from_greedy(tool["warp"], affine), watch, {"metric": metric})


def from_greedy(warp: sitk.Image, matrix: Any) -> Transform:
    """greedy's results: a warp in LPS mm on the fixed grid, applied first, and a 4x4 map of RAS points."""
    return Transform((bridge.field_from_itk(warp), np.asarray(matrix, dtype=np.float64)))


def syn(task: Task) -> Iterator[Outcome]:
    """antspyx: `ants.registration(fixed, moving, "SyN")` with its defaults, mutual information throughout."""
    yield from _ants(task, "SyN", "SyN")


def syn_cc(task: Task) -> Iterator[Outcome]:
    """antspyx: SyN with local correlation, 40x20x10 iterations, on one contrast; several times the cost."""
    yield from _ants(task, "SyN CC", "SyN", syn_metric="CC", syn_sampling=2, reg_iterations=(40, 20, 10))


def _ants(task: Task, name: str, kind: str, **settings: Any) -> Iterator[Outcome]:
    import ants

    fixed, moving = (to_ants(volume) for volume in task.read())
    watch = Watch()
    with watch.running():
        if task.case.body == "spine":
            # As with greedy: in a small field of view its affine runs away, so it starts rigidly from the headers.
            rigid = ants.registration(
                fixed, moving, "Rigid", initial_transform="Identity", outprefix=f"{task.folder}/r", random_seed=SEED
            )
            kind, settings = "SyNOnly", settings | {"initial_transform": rigid["fwdtransforms"]}
        found = ants.registration(fixed, moving, kind, outprefix=f"{task.folder}/", random_seed=SEED, **settings)
    yield Outcome(name, from_ants(found["fwdtransforms"]), watch)


def to_ants(volume: Volume) -> Any:
    """The same image, real-valued, as antspyx holds it: LPS mm."""
    import ants

    origin, spacing, direction = _lps(volume.grid)
    array = volume.array.astype(np.float32)
    return ants.from_numpy(array, origin.tolist(), spacing.tolist(), direction)


def from_ants(paths: Sequence[str]) -> Transform:
    """The files of `fwdtransforms`: a list that is applied to points from its first to its last, fixed to moving."""
    return Transform(tuple(stage for path in paths for stage in read_transform(path).stages))


def elastix(task: Task) -> Iterator[Outcome]:
    """itk-elastix: its default rigid, affine and B-spline maps (brain and others); affine and a finer one for lungs.

    Started from the centres of mass (spine: from the headers), which its maps leave to the user. No number of threads
    is passed (that crashes); ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS says it.
    """
    import itk

    parameters = elastix_parameters(itk, task.case.body)
    fixed, moving = (to_elastix(itk, volume) for volume in task.read())
    method = itk.ElastixRegistrationMethod[type(fixed), type(moving)]
    watch = Watch()
    with watch.running():
        tool = method.New(fixed, moving)
        tool.SetParameterObject(parameters)
        tool.SetLogToConsole(False)
        tool.SetOutputDirectory(str(task.folder))
        tool.UpdateLargestPossibleRegion()
        found = tool.GetTransformParameterObject()
    yield Outcome("elastix", from_elastix(itk, moving, found, task.folder), watch)


def elastix_parameters(itk: Any, body: str) -> Any:
    """The parameter maps of a registration; see `elastix`."""
    found = itk.ParameterObject.New()
    for kind in ("affine", "bspline") if body == "lung" else ("rigid", "affine", "bspline"):
        values = found.GetDefaultParameterMap(kind)
        if found.GetNumberOfParameterMaps() == 0 and body != "spine":
            values["AutomaticTransformInitialization"] = ("true",)
            values["AutomaticTransformInitializationMethod"] = ("CenterOfGravity",)
        values["WriteResultImage"] = ("false",)
        if body == "lung" and kind == "bspline":
            # As the lung registrations in elastix's model zoo: five resolutions, long, and mutual information alone.
            for key in ("GridSpacingSchedule", "Metric0Weight", "Metric1Weight"):
                values.erase(key)
            values["NumberOfResolutions"] = ("5",)
            values["MaximumNumberOfIterations"] = ("1000",)
            values["Registration"] = ("MultiResolutionRegistration",)
            values["Metric"] = ("AdvancedMattesMutualInformation",)
        found.AddParameterMap(values)
    return found


def to_elastix(itk: Any, volume: Volume) -> Any:
    """The same image, real-valued, as the itk package holds it: LPS mm."""
    origin, spacing, direction = _lps(volume.grid)
    image = itk.image_from_array(np.ascontiguousarray(volume.array.astype(np.float32).transpose(2, 1, 0)))
    image.SetOrigin(origin.tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(direction)))
    return image


def from_elastix(itk: Any, moving: Any, parameters: Any, folder: Any) -> Transform:
    """transformix's displacement of every voxel of the fixed grid, LPS mm, all transforms of the chain together."""
    tool = itk.TransformixFilter[type(moving)].New(moving)
    tool.SetTransformParameterObject(parameters)
    tool.SetComputeDeformationField(True)
    tool.SetOutputDirectory(str(folder))
    tool.UpdateLargestPossibleRegion()
    field = tool.GetOutputDeformationField()
    view = itk.array_view_from_image(field)
    lps = np.eye(4)
    lps[:3, :3] = itk.array_from_matrix(field.GetDirection()) * np.array(field.GetSpacing())
    lps[:3, 3] = np.array(field.GetOrigin())
    array = np.stack([view[..., axis].transpose(2, 1, 0) * bridge.RAS_LPS[axis, axis] for axis in range(3)])
    return Transform((DisplacementField(array.astype(np.float32), bridge.RAS_LPS @ lps),))


def _lps(grid: Grid) -> tuple[Any, Any, Any]:
    """Origin, spacing and (3, 3) directions of a grid in LPS mm."""
    lps = bridge.RAS_LPS @ grid.ijk_to_ras
    return lps[:3, 3], grid.spacing, lps[:3, :3] / grid.spacing
