"""The browser app's panel of atlases without a browser, the worker played by the test."""

from __future__ import annotations

import asyncio
import base64
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from fake_fusion import FakeFuser, learned
from fake_registration import FakeRegistration
from fake_segmentation import FakeSegmenter
from segmentation_bench import OBLIQUE, eggs
from view_app_bench import SIZE, Client
from view_segmentation_bench import coloured

from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.view.app import App, Options
from hyperreg.view.state import BOTH_VIEWS, MOVING_VIEWS


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("images")
    write_volume(eggs(OBLIQUE), folder / "fixed.nii.gz")
    write_volume(eggs(OBLIQUE, OBLIQUE.centre), folder / "moving.nii.gz")
    return folder / "fixed.nii.gz", folder / "moving.nii.gz"


@pytest.fixture(scope="module")
def module_app(images: tuple[Path, Path], tiny_models: Path) -> Iterator[App]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERREG_MODELS", str(tiny_models))
        patch.setenv("TRAME_ARGS", "")
        asyncio.set_event_loop(asyncio.new_event_loop())
        options = Options(*images, open_browser=False, model="tiny-untrained")
        fuser = FakeFuser()
        app = App(options, client=Client(), live=FakeRegistration(), segmenter=FakeSegmenter(), fuser=fuser)
        for name in (*BOTH_VIEWS, *MOVING_VIEWS):
            view = app.views.view(name)
            view.render_window().SetSize(SIZE, SIZE)
            view._update_slice_size()
        app.fuser = fuser
        yield app
        app.close()
        assert fuser.on_done is None


@pytest.fixture
def app(module_app: App, images: tuple[Path, Path]) -> Iterator[App]:
    state = module_app.server.state
    module_app.fusion.undo()
    state.update({"error": "", "notes": [], "device": "auto", "fuse_folder": "/atlases", "fuse_method": "vote"})
    state.update({"fuse_lam": 0.4, "fuse_select": 0, "fuse_refine": False, "fuse_map": False})
    module_app.controller.load_files(*images)
    state.panel = "fusion"
    module_app.panels.choose("fusion")
    module_app.fuser.asked.clear()
    yield module_app
    if module_app.fuser.running:
        module_app.fusion.cancel()
    module_app.panels.choose("registration")


def fuse(app: App, **answer: Any) -> Any:
    app.fusion.fuse()
    assert app.server.state.error == ""
    return app.fuser.answer(**answer)


def test_what_is_chosen_reaches_the_worker_with_the_image_in_its_place(app: App) -> None:
    state = app.server.state
    assert [entry["title"].split(":")[0] for entry in state.fuse_targets] == ["Fixed", "Moving"]
    state.fuse_method, state.fuse_select, state.fuse_refine = "staple", 5, True
    app.fusion.fuse()
    assert state.fuse_phase == "running"
    folder, target, options = app.fuser.asked[0]
    assert folder == "/atlases"
    assert options == {"method": "staple", "lam": 0.4, "refine": True, "device": "auto", "select": 5}
    assert np.abs(target.grid.corners - OBLIQUE.corners).max() < 1e-3  # mm
    app.fuser.progress(0.25, "one: registering")
    assert (state.fuse_progress, state.fuse_text) == (25.0, "one: registering")
    app.fuser.answer()
    assert (state.fuse_phase, state.fuse_progress) == ("idle", 0.0)
    assert "2 structures from 3 of 4 label maps" in state.fuse_summary
    assert "bad (left out): The registration failed." in state.fuse_summary


@pytest.mark.parametrize(
    ("name", "value"),
    [("fuse_folder", " "), ("fuse_folder", None), ("fuse_lam", 1.5), ("fuse_lam", "x"), ("fuse_select", -1),
     ("fuse_select", 1.5), ("fuse_method", "magic"), ("fuse_method", ["vote"]), ("fuse_target", "nothing")],
)  # fmt: skip
def test_what_the_browser_must_not_send_is_refused(app: App, name: str, value: Any) -> None:
    state = app.server.state
    before = state.fuse_target
    state[name] = value
    app.fusion.fuse()
    assert state.error
    assert app.fuser.asked == []
    assert state.fuse_phase == "idle"
    state.fuse_target = before


def test_the_folder_is_looked_through_before_anything_is_registered(app: App) -> None:
    state = app.server.state
    app.fusion.look(app.server.state.fuse_folder)
    assert state.fuse_looking
    app.fuser.found()
    assert (state.fuse_looking, state.fuse_found) == (False, "1 atlases, 1 cannot be used")
    good, bad = state.fuse_atlases
    assert bad["problem"] == "'bad_labels.nii.gz' is damaged."
    assert bad["picture"] == ""
    head, data = good["picture"].split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data).startswith(b"\x89PNG")
    app.fusion.look(app.server.state.fuse_folder)
    app.fusion._not_found("The atlas folder '/atlases' does not exist.")
    assert (state.fuse_looking, state.error) == (False, "The atlas folder '/atlases' does not exist.")


def test_the_consensus_lies_over_the_image_and_undo_takes_it_away(app: App) -> None:
    state = app.server.state
    before, nodes = coloured(app), app.slicer_app.scene.GetNumberOfNodes()
    fused = fuse(app, warnings=("Look twice.",))
    assert state.notes == ["Look twice."]
    assert [(row["name"], row["colour"]) for row in state.fuse_rows] == [("Core", "#dc3c28"), ("Rim", "#3c78dc")]
    assert float(state.fuse_rows[0]["volume"]) == pytest.approx(fused.structures[0].volumes.volume_ml, rel=0.02)
    assert coloured(app) > before + 0.02
    app.panels.choose("registration")
    assert coloured(app) < before + 0.01
    app.panels.choose("fusion")
    assert coloured(app) > before + 0.02
    assert state.fuse_can_undo
    app.fusion.undo()
    assert (state.fuse_rows, state.fuse_raters, state.fuse_can_undo) == ([], [], False)
    assert coloured(app) == pytest.approx(before, abs=0.005)
    assert app.slicer_app.scene.GetNumberOfNodes() <= nodes + 2  # what segmentations share


def test_atlases_are_a_table_that_sorts(app: App) -> None:
    state = app.server.state
    fuse(app)

    def names() -> list[str]:
        return [row["name"] for row in state.fuse_raters]

    assert names() == ["a10", "a9", "a2", "bad"]
    assert [row["weight"] for row in state.fuse_raters] == ["0.50", "0.40", "0.10", ""]
    assert state.fuse_raters[3]["note"] == "The registration failed."
    app.fusion.sort("sensitivity")
    assert names() == ["a9", "a10", "a2", "bad"]
    app.fusion.sort("sensitivity")
    assert names() == ["a2", "a10", "a9", "bad"]
    app.fusion.sort("name")
    assert names() == ["a2", "a9", "a10", "bad"]
    app.fusion.sort("anything")
    assert names() == ["a2", "a9", "a10", "bad"]


def test_the_views_go_to_the_disagreement(app: App) -> None:
    state = app.server.state
    fused = fuse(app)
    app.fusion.next_place()
    assert state.fuse_place.startswith("Disagreement 1 of 1:")
    assert state.fuse_place.endswith("say something else than the consensus: Rim.")
    wanted = fused.disagreement.grid.to_ras(np.argwhere(fused.disagreement.array > 0)).mean(0)
    matrix = app.views.view("Red").get_view_node().GetSliceToRAS()
    normal = np.array([matrix.GetElement(row, 2) for row in range(3)])
    shown = np.array([matrix.GetElement(row, 3) for row in range(3)])
    assert abs(float(normal @ (shown - wanted))) < 4  # mm
    state.fuse_map = True
    app.fusion.show()
    composite = app.views.view("Red").slice_logic.GetSliceCompositeNode()
    over = app.slicer_app.scene.GetNodeByID(composite.GetForegroundVolumeID())
    assert over.GetName().endswith("disagreement")
    assert not app.fusion._node.GetDisplayNode().GetVisibility2DFill()
    state.fuse_map = False
    app.fusion.show()
    assert app.fusion._node.GetDisplayNode().GetVisibility2DFill()


def test_cancelling_and_failing_change_nothing(app: App) -> None:
    state = app.server.state
    fuse(app)
    rows = list(state.fuse_rows)
    app.fusion.fuse()
    app.fusion.cancel()
    assert (state.fuse_phase, state.fuse_rows) == ("idle", rows)
    app.fusion.fuse()
    app.fuser.fail("No atlas is left.")
    assert (state.error, state.fuse_phase, state.fuse_rows) == ("No atlas is left.", "idle", rows)


def test_an_image_that_was_closed_meanwhile_is_told(app: App, images: tuple[Path, Path]) -> None:
    app.fusion.fuse()
    app.slicer_app.scene.RemoveNode(app.slicer_app.scene.GetNodeByID(app.server.state.fuse_target))
    app.fuser.answer()
    assert "deleted" in app.server.state.error
    assert app.server.state.fuse_rows == []
    app.controller.load_files(*images)


def test_everything_can_be_downloaded(app: App) -> None:
    state = app.server.state
    fused = fuse(app)
    asyncio.get_event_loop().run_until_complete(app.fusion.save())
    assert state.error == ""
    assert len(state.fuse_downloads) == 5
    folder = max(path for path in app.files.folder.rglob("*-disagreement.nii.gz")).parent
    written = read_volume(next(folder.glob("*-disagreement.nii.gz")))
    assert np.abs(written.grid.corners - OBLIQUE.corners).max() < 1e-3  # mm
    assert written.array.max() == pytest.approx(2 / 3, abs=1e-3)
    labels = read_volume(next(path for path in folder.glob("*.nii.gz") if "disagreement" not in path.name))
    assert np.array_equal(labels.array, fused.labels.array)
    rows = list(csv.DictReader(next(folder.glob("*-atlases.csv")).open(encoding="utf-8")))
    assert [row["name"] for row in rows] == ["a10", "a9", "a2", "bad"]


def test_a_row_for_every_atlas_while_it_runs(app: App) -> None:
    state = app.server.state
    app.fusion.fuse()
    app.fuser.news("a9", "running", 0.35, "Aligning: affine")
    app.fuser.news("bad", "left out", 1.0, "It is damaged.")
    assert state.fuse_news == [
        {"name": "a9", "text": "Aligning: affine", "percent": 35, "used": True},
        {"name": "bad", "text": "Left out: It is damaged.", "percent": 100, "used": False},
    ]
    app.fuser.answer()
    assert state.fuse_news == []


def test_an_early_answer_replaces_the_view_until_it_is_kept_or_given_up(app: App) -> None:
    state = app.server.state
    scene = app.slicer_app.scene
    fuse(app, learned=learned(100))
    result, before, plot = app.fusion._node, coloured(app), state.fuse_plot
    assert "50.0 %" in plot
    state.fuse_method = "dp"
    app.fusion.fuse()
    app.fuser.early(25)
    assert state.fuse_early.startswith("Step 25 of 100")
    assert "step 100" in state.fuse_early_plot
    assert not result.GetDisplayNode().GetVisibility()
    assert 0.002 < coloured(app) < before  # a smaller ball than the result's
    app.panels.choose("registration")
    assert coloured(app) < 0.002
    app.panels.choose("fusion")
    assert coloured(app) > 0.002
    app.fusion.cancel()
    assert (state.fuse_early, state.fuse_early_plot, state.fuse_plot) == ("", "", plot)
    assert result.GetDisplayNode().GetVisibility()
    assert coloured(app) == pytest.approx(before, abs=0.005)
    app.fusion.fuse()
    early = app.fuser.early(50)
    app.fusion.keep_early()
    assert app.fuser.finished
    app.fuser.answer(learned=early.learned)
    assert state.fuse_early == ""
    assert "step 100" in state.fuse_plot
    names = [scene.GetNthNodeByClass(n, "vtkMRMLSegmentationNode").GetName()
             for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"))]  # fmt: skip
    assert not any("so far" in name for name in names)
