"""Which contrast is which: on a made-up head whose tissues are as bright as physics says, and on real patients."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from cli_pair import run
from head_examples import GRID, INPUTS, head
from segmentation_bench import make_card

from hyperreg.cli.console import ExitCode
from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation import licences, look
from hyperreg.segmentation.catalogue import Input


@pytest.fixture(scope="module")
def heads() -> dict[str, Volume]:
    shifted = GRID.ijk_to_ras.copy()
    other = Grid((66, 50, 48), shifted)
    return {"T1": head("T1", GRID), "T2": head("T2", GRID), "FLAIR": _like(head("FLAIR", GRID), other)}


def _like(volume: Volume, grid: Grid) -> Volume:
    """On a grid of another size."""
    from hyperreg.imaging.resampling import resample

    return resample(volume, grid)


def test_every_order_is_told(heads: dict[str, Volume]) -> None:
    names = list(heads)
    for order in list(itertools.permutations(names))[1::2]:
        found = look.tell([heads[name] for name in order], INPUTS)
        assert found == {name: order.index(name) for name in names}


def test_a_mix_up_is_warned_of_and_the_right_order_is_not(heads: dict[str, Volume]) -> None:
    assert look.warnings(heads, INPUTS) == []
    swapped = {"T1": heads["T2"], "T2": heads["T1"], "FLAIR": heads["FLAIR"]}
    (told,) = look.warnings(swapped, INPUTS)
    assert "'T1' looks like T1, 'T2' looks like T2" in told


def test_an_image_that_does_not_lie_on_the_others_is_named(heads: dict[str, Volume]) -> None:
    moved = heads["FLAIR"].ijk_to_ras.copy()
    moved[:3, 3] += (25, -20, 25)
    away = Volume(heads["FLAIR"].array, moved, "scan 7")
    (told,) = look.warnings({**heads, "FLAIR": away}, INPUTS)
    assert told.startswith("'scan 7' (FLAIR): nothing of this lies where")
    assert "--align" in told
    assert look.warnings({"T1": heads["T1"], "FLAIR": heads["FLAIR"]}, [INPUTS[0], INPUTS[2]]) == []
    assert len(look.warnings({"T1": heads["T1"], "FLAIR": away}, [INPUTS[0], INPUTS[2]])) == 1


def test_what_cannot_be_told_is_not(heads: dict[str, Volume]) -> None:
    t1, t2, flair = heads.values()
    assert look.tell([t1, t2], INPUTS[:2]) is None  # one relation does not say which is which
    assert look.tell([t1, t2, flair], [Input("T1", ""), Input("ADC", ""), Input("FLAIR", "")]) is None
    assert look.tell([t1, t1, t1], INPUTS) is None
    far = flair.ijk_to_ras.copy()
    far[0, 3] += 900
    assert look.tell([t1, t2, Volume(flair.array, far)], INPUTS) is None
    noise = [Volume(np.random.default_rng(n).random(GRID.shape) + 1, GRID.ijk_to_ras) for n in range(3)]
    assert look.tell(noise, INPUTS) is None


def named(volume: Volume, name: str) -> Volume:
    return Volume(volume.array, volume.ijk_to_ras, name)


def test_names_and_the_look_work_together(heads: dict[str, Volume]) -> None:
    t1, t2, flair = heads.values()
    found = look.recognise([named(flair, "p_flair"), named(t1, "p_t1"), named(t2, "p_t2")], INPUTS)
    assert found == look.Recognised({"T1": 1, "T2": 2, "FLAIR": 0}, "")
    # Two names tell, the third image is what is left.
    found = look.recognise([named(t2, "b"), named(t1, "p_t1"), named(flair, "flair")], INPUTS)
    assert found is not None
    assert found.images == {"T1": 1, "T2": 0, "FLAIR": 2}
    assert found.guess == "Taken, because the other names tell the rest: 'b' as T2."
    # One name tells, a look decides about the others.
    found = look.recognise([named(flair, "a"), named(t2, "b"), named(t1, "p_t1")], INPUTS)
    assert found is not None
    assert found.images == {"T1": 2, "T2": 1, "FLAIR": 0}
    assert "by their contrast: T1 = 'p_t1', T2 = 'b', FLAIR = 'a'." in found.guess
    # Names that the images speak against are not followed, nor is the look.
    assert look.recognise([named(t2, "t1"), named(t1, "a"), named(flair, "b")], INPUTS) is None


def test_of_more_images_than_needed_the_right_ones_are_told(heads: dict[str, Volume]) -> None:
    t1, t2, flair = heads.values()
    other = named(Volume(np.random.default_rng(0).random(GRID.shape) + 1, GRID.ijk_to_ras), "map")
    found = look.recognise([other, named(t2, "a"), named(flair, "b"), named(t1, "c")], INPUTS)
    assert found is not None
    assert found.images == {"T1": 3, "T2": 1, "FLAIR": 2}
    # Another patient's image, elsewhere, is no hindrance; a second image of the same contrast is.
    away = t1.ijk_to_ras.copy()
    away[:3, 3] += 900
    volumes = [named(t1, "a"), named(t2, "b"), named(flair, "c")]
    found = look.recognise([*volumes, Volume(t1.array, away, "d")], INPUTS)
    assert found is not None
    assert found.images == {"T1": 0, "T2": 1, "FLAIR": 2}
    assert look.recognise([*volumes, named(t1, "again")], INPUTS) is None
    assert look.recognise(volumes[:2], INPUTS) is None
    assert look.recognise(volumes * 3, INPUTS) is None  # too many orders


def test_the_orders_that_names_allow() -> None:
    assert look.orders(["x", "t1", "y"], INPUTS) == [(1, 0, 2), (1, 2, 0)]
    assert look.orders(["t1_a", "t1_b", "flair"], INPUTS) == []
    assert len(look.orders(["t1_t2", "t2_t1", "flair"], INPUTS)) == 2


PATIENTS = {
    "ms": {name: f"brain_ms/patient19_{name}" for name in ("T1", "T2", "FLAIR")},
    "stroke": {name: f"brain_stroke/stroke_{name}" for name in ("T1", "T2", "FLAIR")},
    "tumour": {
        name: f"brain_tumour/BraTS-GLI-00001-000-{word}"
        for name, word in {"T1c": "t1c", "T1": "t1n", "T2": "t2w", "FLAIR": "t2f"}.items()
    },
    "thick slices": {
        name: f"brain_tumour/TCGA-FG-6692_native_{word}"
        for name, word in {"T1c": "t1c", "T1": "t1", "T2": "t2", "FLAIR": "fla"}.items()
    },
}


def patient(real_data: Path, name: str) -> dict[str, Volume]:
    return {entry: read_volume(real_data / f"{file}.nii.gz") for entry, file in PATIENTS[name].items()}


@pytest.mark.parametrize("name", ["ms", "stroke", "tumour"])
def test_real_patients_are_told_right(real_data: Path, name: str) -> None:
    """Those on whom the expectations were set: not how well it does on others."""
    volumes = patient(real_data, name)
    found = look.tell(list(volumes.values()), [Input(entry, entry) for entry in volumes])
    assert found == {entry: index for index, entry in enumerate(volumes)}


def test_headers_that_are_15_mm_wrong_are_noticed(real_data: Path) -> None:
    """T2 and FLAIR of a real patient, thick oblique slices, as they were stored."""
    volumes = patient(real_data, "thick slices")
    (told,) = look.warnings(volumes, [Input(entry, entry) for entry in volumes])
    assert told.startswith("'TCGA-FG-6692_native_t2' (T2) and 'TCGA-FG-6692_native_fla' (FLAIR): nothing of this lies")


def test_the_command_line_guesses_says_so_and_checks_names(
    heads: dict[str, Volume], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path / "models"))
    inputs = [{"name": entry.name, "title": entry.title} for entry in INPUTS]
    grid = {"axes": "ras", "spacing_mm": [6.0, 6.0, 6.0], "window": [32, 32, 32]}
    licences.accept(make_card(tmp_path / "models", inputs=inputs, grid=grid))
    for file, name in {"a": "FLAIR", "b": "T1", "c": "T2"}.items():
        write_volume(heads[name], tmp_path / f"{file}.nii.gz")

    def segment(*images: str) -> dict:
        report = tmp_path / "r.json"
        assert run("segment", *images, "--model", "bands", "--device", "cpu", "--report", str(report)) == 0
        return json.loads(report.read_text(encoding="utf-8"))

    files = [str(tmp_path / f"{letter}.nii.gz") for letter in "abc"]
    report = segment(*files)
    found = {name: Path(entry["file"]).name for name, entry in report["inputs"].items()}
    assert found == {"T1": "b.nii.gz", "T2": "c.nii.gz", "FLAIR": "a.nii.gz"}
    assert "by their contrast: T1 = 'b', T2 = 'c', FLAIR = 'a'. This is a guess" in " ".join(report["warnings"])
    assert report["seen_by_the_model"]["shape"]
    report = segment(f"T1={files[2]}", f"T2={files[1]}", f"FLAIR={files[0]}")
    assert any("seem to be mixed up" in text for text in report["warnings"])
    assert segment(f"T1={files[1]}", f"T2={files[2]}", f"FLAIR={files[0]}")["warnings"] == []
    assert run("segment", *files[:2], "--model", "bands") == ExitCode.INPUT
