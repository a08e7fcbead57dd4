"""The browser app on a real scene and real slice views, without a browser; the worker is played by the test."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import vtk
from fake_registration import FakeRegistration
from vtk.util.numpy_support import vtk_to_numpy

from hyperreg.imaging.files import write_volume
from hyperreg.phantom import LABEL_NAMES, PhantomPair, head_phantom_pair
from hyperreg.view.app import App, Options
from hyperreg.view.state import BOTH_VIEWS, MOVING_VIEWS

SIZE = 200


class Client:
    def __init__(self) -> None:
        self.news = []
        self.stopped = False

    def poll(self) -> None:
        for event in self.news:
            event()
        self.news = []

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return head_phantom_pair((48, 60, 48), seed=1)


@pytest.fixture(scope="module")
def pair_files(pair: PhantomPair, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    paths = folder / "fixed.nii.gz", folder / "moving.nii.gz"
    for volume, path in zip((pair.fixed, pair.moving), paths, strict=True):
        write_volume(volume, path)
    return paths


@pytest.fixture(scope="module")
def module_app(pair_files: tuple[Path, Path], tiny_models: Path, tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERREG_MODELS", str(tiny_models))
        patch.setenv("TRAME_ARGS", "")
        asyncio.set_event_loop(asyncio.new_event_loop())
        recent = tmp_path_factory.mktemp("user") / "hyperreg" / "recent.json"
        options = Options(*pair_files, open_browser=False, model="tiny-untrained", recent=recent)
        app = App(options, client=Client(), live=FakeRegistration())
        for name in (*BOTH_VIEWS, *MOVING_VIEWS):
            view = app.views.view(name)
            view.render_window().SetSize(SIZE, SIZE)
            view._update_slice_size()
        yield app
        app.controller.close()
        assert not app.files.folder.exists()
        assert app.client.stopped


@pytest.fixture
def app(module_app: App, pair: PhantomPair):
    module_app.server.state.update(
        {"mode": "fade", "fade": 0.5, "error": "", "notes": [], "alignment": "affine", "contrast": "auto"}
    )
    module_app.server.state.update({"device": "auto", "sample": False, "downloads": []})
    module_app.live.set_full_automatically(True)
    module_app.live.rest()
    module_app.live.calls.clear()
    open_phantom(module_app, pair)
    module_app.server.state.lam = 0.3
    module_app.controller.ask_lambda(0.3)
    module_app.views.set_draft(False)
    module_app.controller.step()
    return module_app


def open_phantom(app: App, pair: PhantomPair) -> None:
    """Opens the generated head with its label maps as a pair of the program's own."""
    volumes = {role: getattr(pair, role) for role in ("fixed", "moving", "fixed_labels", "moving_labels")}
    app.controller.open_pair(volumes, {label: name.capitalize() for label, name in LABEL_NAMES.items()})


def register(app: App) -> None:
    app.controller.register()
    assert app.server.state.error == ""
    app.client.news.append(app.live.answer_ready)
    app.controller.step()


def picture(app: App, name: str = "Red", *, channels: bool = False) -> np.ndarray:
    """(SIZE, SIZE) grey values of a view, as at rest; channels: (SIZE, SIZE, 3) red, green and blue instead."""
    app.views.set_draft(False)
    window = app.views.view(name).render_window()
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.Update()
    scalars = vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars()).reshape(SIZE, SIZE, -1)
    return scalars[..., :3].astype(float) if channels else scalars[..., 0].astype(float)
