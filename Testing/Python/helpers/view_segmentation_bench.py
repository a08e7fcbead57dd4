"""The browser app with its segmentation panel open, models and images; the worker is played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_registration import FakeRegistration
from fake_segmentation import FakeSegmenter
from segmentation_bench import OBLIQUE, eggs, make_card
from view_app_bench import SIZE, Client

from hyperreg.imaging.files import write_volume
from hyperreg.registration.model import save_untrained
from hyperreg.segmentation import licences
from hyperreg.segmentation.bundles import join_models
from hyperreg.view.app import App, Options
from hyperreg.view.state import BOTH_VIEWS, MOVING_VIEWS

MODELS = ("bands", "belly", "folds", "two")
TWO = [{"name": "T1", "title": "T1", "patterns": ["t1w"]}, {"name": "FLAIR", "title": "T2 FLAIR", "patterns": ["t2f"]}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_untrained(folder, "tiny-untrained")
    make_card(folder, name="bands", title="Bands", description="Finds eggs")
    make_card(folder, name="two", title="Tumour", inputs=TWO, modality="any", licence="CC BY-NC 4.0")
    slider = [{"name": "lambda", "title": "Balance", "default": 0.25, "description": "Between two ends."}]
    network = {"name": "segresnet", "options": {"filters": 4, "blocks_down": [1], "blocks_up": []}, "hidden": [4]}
    folds = [make_card(folder / "parts", name=name, network=network, hyperparameters=slider) for name in ("a", "b")]
    join_models(folds, "folds", folder)
    make_card(folder, name="belly", title="Belly", modality="CT")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_volume(eggs(OBLIQUE), folder / "fixed.nii.gz")
    write_volume(eggs(OBLIQUE, OBLIQUE.centre), folder / "moving.nii.gz")
    return folder


@pytest.fixture(scope="module")
def module_app(models: Path, images: Path) -> Iterator[App]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERREG_MODELS", str(models))
        patch.setenv("TRAME_ARGS", "")
        asyncio.set_event_loop(asyncio.new_event_loop())
        pair = (images / "fixed.nii.gz", images / "moving.nii.gz")
        options = Options(*pair, open_browser=False, model="tiny-untrained")
        app = App(options, client=Client(), live=FakeRegistration(), segmenter=FakeSegmenter())
        for name in (*BOTH_VIEWS, *MOVING_VIEWS):
            view = app.views.view(name)
            view.render_window().SetSize(SIZE, SIZE)
            view._update_slice_size()
        yield app
        app.close()
        assert app.live.closed if hasattr(app.live, "closed") else True


@pytest.fixture
def app(module_app: App, models: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    monkeypatch.setenv("HYPERREG_MODELS", str(models))
    (models / licences.RECORD).unlink(missing_ok=True)
    state = module_app.server.state
    module_app.segmentation.undo()
    module_app.segmentation.answer(True)
    state.update({"error": "", "notes": [], "segment_words": "", "segment_modality": "any", "device": "auto"})
    state.update({"segment_downloads": [], "segment_map": False, "segment_flips": False, "segment_align": False})
    state.segment_model = "bands"
    module_app.segmentation.filter_models()
    module_app.controller.load_files(images / "fixed.nii.gz", images / "moving.nii.gz")
    module_app.server.state.panel = "segmentation"
    module_app.panels.choose("segmentation")
    module_app.segmenter = module_app.segmentation.logic.remote
    module_app.segmenter.asked.clear()
    yield module_app
    if module_app.segmenter.running:
        module_app.segmentation.cancel()
    module_app.panels.choose("registration")


def segment(app: App, **answer: Any) -> Any:
    app.segmentation.segment()
    if app.server.state.segment_licence:
        app.segmentation.accept_licence()
    assert app.server.state.error == ""
    return app.segmenter.answer(**answer)


def colours(app: App, name: str = "Red") -> np.ndarray:
    """(SIZE, SIZE, 3) colours of a view at rest."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    app.views.set_draft(False)
    window = app.views.view(name).render_window()
    window.SetSize(SIZE, SIZE)
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.Update()
    return vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars()).reshape(SIZE, SIZE, -1)[..., :3].astype(float)


def coloured(app: App, name: str = "Red") -> float:
    """Share of a view's pixels that are not grey."""
    picture = colours(app, name)
    return float((np.ptp(picture, axis=-1) > 40).mean())
