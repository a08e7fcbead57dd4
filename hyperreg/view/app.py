"""Puts the app together and serves it."""

from __future__ import annotations

import asyncio
import os
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hyperreg import overnight
from hyperreg.catalogue import user_folder
from hyperreg.errors import HyperRegError, InputError
from hyperreg.mrml.registration.texts import DEVICE_TITLES
from hyperreg.registration.catalogue import find_model
from hyperreg.view import security
from hyperreg.view.connections import quiet_logs
from hyperreg.view.messages import Messages
from hyperreg.view.panels import Panel, Panels
from hyperreg.view.private_files import PrivateFiles
from hyperreg.view.state import PANEL, PageState
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.fusion import RemoteFuser
from hyperreg.worker.live.registration import LiveRegistration
from hyperreg.worker.live.state import Registration
from hyperreg.worker.segmentation import RemoteSegmenter

ASSETS = "hyperreg_assets"
# In the user's folder: images that were opened last.
RECENT = "recent.json"
HEART_BEAT_S = "10"
MISSING = (
    "The browser app needs slicer-core and trame-slicer. Install them with: pip install 'hyperreg[view]'\n"
    "(slicer-core exists for Linux, Windows and macOS with Python 3.10 to 3.13.)"
)


@dataclass(frozen=True)
class Options:
    """How the app is started; see `serve`. recent: the list of images that were opened last; None keeps none.
    learning: the folder of a training over night; None offers none."""

    fixed: Path | None = None
    moving: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    token: str = security.AUTOMATIC
    open_browser: bool = True
    device: str = "auto"
    compute_on: str = ""
    model: str | None = None
    recent: Path | None = None
    learning: Path | None = None


class App:
    """One server with its scene, views and worker. client, live, segmenter, fuser: fakes in their place, in tests."""

    def __init__(
        self,
        options: Options,
        client: Any = None,
        live: Registration | None = None,
        segmenter: Any = None,
        fuser: Any = None,
    ) -> None:
        self.options = options
        token = security.choose_token(options.token)
        security.check_host(options.host, token)
        self.guard = security.Guard(options.host, token)
        slicer_app_type, get_server = _libraries()
        from hyperreg.view import page, page_fusion, page_registration, page_segmentation, slices
        from hyperreg.view.controller import Controller
        from hyperreg.view.fusion import FusionControls
        from hyperreg.view.recent import Recent
        from hyperreg.view.segmentation import SegmentationControls
        from hyperreg.view.segmentation_models import ModelControls
        from hyperreg.view.viewing import ViewControls

        self.files = PrivateFiles()
        try:
            self.server = get_server(f"hyperreg-{id(self)}", client_type="vue3")
            state = self.server.state
            page_state = asdict(
                PageState(device=options.device, model=options.model or "", computer=options.compute_on)
            )
            state.update({**page_state, "trame__title": "HyperReg", "trame__favicon": None})
            # Of the page alone: a page that is left with its help open must not open the next one with it.
            state.client_only("help")
            self.server.enable_module(
                {
                    "serve": {ASSETS: str(Path(__file__).resolve().parent / "assets")},
                    "scripts": [f"{ASSETS}/hyperreg.js"],
                    "styles": [f"{ASSETS}/hyperreg.css"],
                }
            )
            self.slicer_app = slicer_app_type()
            self.views = slices.SliceViews(self.slicer_app, self.server)
            self.client = client or WorkerClient(address=options.compute_on)
            self.live: Registration = live or LiveRegistration(self.client)
            self.messages = Messages(state)
            self.controller = Controller(
                state, self.slicer_app.scene, self.views, self.client, self.live, self.files, self.messages,
                Recent(options.recent), overnight.Overnight(options.learning) if options.learning is not None else None,
            )  # fmt: skip
            if options.fixed or options.moving:
                self.controller.load_files(options.fixed, options.moving)
            else:
                self.controller.load_sample()
            self.segmentation = SegmentationControls(
                state, self.slicer_app.scene, self.views, segmenter or RemoteSegmenter(self.client), self.files,
                self.controller.pair.images, self.messages,
            )  # fmt: skip
            self.models = ModelControls(
                state,
                self.client,
                self.files,
                self.segmentation.tell,
                self.segmentation.models_changed,
            )
            self.fusion = FusionControls(
                state, self.slicer_app.scene, self.views, fuser or RemoteFuser(self.client), self.files,
                self.controller.pair.images, self.messages,
            )  # fmt: skip
            self.segmentation.series_of = self.fusion.series_of = self.controller.series_of
            panels = [
                Panel(
                    PANEL,
                    "Registration",
                    lambda: page_registration.fill(self.controller),
                    lambda: page_registration.bar(self.controller),
                    self.controller.show,
                ),
                Panel(
                    "segmentation",
                    "Segmentation",
                    lambda: page_segmentation.fill(self.segmentation, self.models),
                    lambda: page_segmentation.bar(self.segmentation),
                    self.segmentation.enter,
                    self.segmentation.leave,
                ),
                Panel(
                    "fusion",
                    "Atlases",
                    lambda: page_fusion.fill(self.fusion),
                    lambda: page_fusion.bar(self.fusion),
                    self.fusion.enter,
                    self.fusion.leave,
                ),
            ]
            self.panels = Panels(state, panels, self.messages)
            self.viewing = ViewControls(state, self.views, self.controller.pair.images, self._deformed_mm)
            self.controller.on_images = self.viewing.offer
            self.controller.on_step = self._step
            self.page = page.build(self.server, panels, self.views, self.viewing, self.controller.tuning.landmarks)
        except BaseException:
            self.files.remove()
            raise
        self._listen()
        self.server.controller.on_server_bind.add(self._protect)
        self.server.controller.on_server_ready.add(self._started)
        self.on_ready: Callable[[str], None] = lambda _address: None

    def _listen(self) -> None:
        """What the browser changes in the state goes to whom it concerns."""
        state = self.server.state
        state.change("panel")(lambda panel, **_: self.panels.choose(panel))
        state.change("lam")(lambda lam, **_: self.controller.ask_lambda(lam))
        state.change("gamma")(lambda gamma, **_: self.controller.tuning.ask_gamma(gamma))
        state.change("pull")(lambda pull, **_: self.controller.tuning.landmarks.ask_pull(pull))
        state.change("placing")(lambda placing, **_: self.controller.tuning.landmarks.set_placing(placing))
        state.change("model")(lambda model, **_: self.controller.choose_model(model))
        state.change("full_automatically")(
            lambda full_automatically, **_: self.controller.tuning.set_full_automatically(full_automatically)
        )
        state.change("mode")(lambda mode, **_: self.controller.set_mode(mode))
        state.change("fade")(lambda fade, **_: self.controller.set_fade(fade))
        for names, action in (
            (("segment_words", "segment_modality"), self.segmentation.filter_models),
            (("segment_model",), self.segmentation.choose_model),
            (("segment_map",), self.segmentation.show),
            (("fuse_method",), self.fusion.choose_method),
            (("fuse_folder",), self.fusion.say_what_is_missing),
            (("fuse_target", "fuse_map"), self.fusion.show),
            (("lines",), lambda: self.viewing.set_lines(state.lines)),
            (("in_3d",), self._change_3d),
            (("volume_change",), lambda: self.controller.tuning.set_volume_change(state.volume_change)),
            (("second_plane",), lambda: self.viewing.set_second_plane(state.second_plane)),
        ):
            state.change(*names)(lambda action=action, **_: action())
        state.change("segment_opacity")(lambda segment_opacity, **_: self.segmentation.set_opacity(segment_opacity))
        state.change("segment_border")(lambda segment_border, **_: self.segmentation.border.ask(segment_border))
        state.change("fuse_opacity")(lambda fuse_opacity, **_: self.fusion.set_opacity(fuse_opacity))

    @property
    def address(self) -> str:
        """What to open in the browser, once the server runs."""
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"http://{host}:{self.server.port}{self.guard.prefix}/index.html"

    def page_to_open(self, address: str) -> str:
        """What a browser is started with, whose command line all users of this machine can read: no token in it."""
        if not self.guard.token:
            return address
        page = self.files.new_folder() / "open.html"
        page.write_text(security.redirecting_page(address), encoding="utf-8")
        return page.as_uri()

    def run(self) -> None:
        """Serves until the process is told to end (Ctrl+C, SIGTERM)."""
        try:
            self.server.start(
                port=self.options.port,
                host=self.options.host,
                open_browser=False,
                show_connection_info=False,
                disable_logging=True,
                timeout=0,
                backend="aiohttp",
            )
        finally:
            self.close()

    def close(self) -> None:
        """Ends the worker and deletes uploads and downloads."""
        self.fusion.close()
        self.segmentation.close()
        self.controller.close()

    def _deformed_mm(self, ras: Any) -> float | None:
        return self.controller.logic.live.deformed_mm(ras)

    def _step(self) -> None:
        for controls in (self.segmentation, self.fusion):
            controls.step()

    def _change_3d(self) -> None:
        on = self.server.state.in_3d
        if on is True:
            for controls in (self.segmentation, self.fusion):
                controls.show_surfaces()
        self.viewing.set_3d(on)

    def _protect(self, web_server: Any) -> None:
        from hyperreg.view.routes import add_routes

        inner = web_server.app
        add_routes(inner, self.files, self._accept_upload, self._uploading)
        # wslink would add these when it starts, to what is then the outer application.
        inner.add_routes(web_server._default_routes)
        web_server._default_routes = []
        web_server.set_app(self.guard.protect(inner))
        self._web_server = web_server

    @contextmanager
    def _uploading(self, role: str) -> Iterator[None]:
        """What is begun while a file is on its way would be of the images from before: the page waits."""
        state = self.server.state
        with state:
            state.uploading = role
        try:
            yield
        finally:
            with state:
                state.uploading = ""

    async def _accept_upload(self, role: str, path: Path) -> None:
        if role == "model":
            await self.models.accept_upload(role, path)
        elif role.startswith("input"):
            await self.segmentation.accept_upload(role, path)
        else:
            await self.controller.accept_upload(role, path)

    def _started(self, **_state: Any) -> None:
        loop = asyncio.get_event_loop()
        self._clock = loop.create_task(self.controller.run())
        self._watch = loop.create_task(self.guard.strangers.watch(self._web_server.runner.server))
        self.on_ready(self.address)


def serve(
    fixed: Path | None = None,
    moving: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str = security.AUTOMATIC,
    open_browser: bool = True,
    device: str = "auto",
    model: str | None = None,
    compute_on: str = "",
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serves the browser app until it is interrupted.

    fixed, moving: images to open; neither: the sample pair. port: 0 takes a free one.
    token: "auto" for a random one, "none" for none (loopback only), or the token itself.
    device: "auto", "cpu" or "cuda". model: a name of the catalogue; None for the default. compute_on: "" for this
    computer, or the address of another one (see `WorkerClient.move_to`).
    on_ready: called with the address when the page can be opened; by default it is printed, and who can reach it.
    Raises HyperRegError if something is missing, an image cannot be used or the port is taken.
    """
    if device not in DEVICE_TITLES:
        raise InputError(f"Unknown device '{device}'. Choose one of {', '.join(DEVICE_TITLES)}.")
    if model is not None:
        find_model(model)
    # trame and wslink read the command line and these variables; ours is none of their business.
    os.environ["TRAME_ARGS"] = ""
    os.environ["WSLINK_READY_MSG"] = ""
    # A tab that does not answer (its messages fill up, and all others wait for them) is let go after so many seconds.
    os.environ.setdefault("WSLINK_HEART_BEAT", HEART_BEAT_S)
    quiet_logs()
    recent, learning = user_folder() / RECENT, user_folder() / overnight.FOLDER
    app = App(Options(fixed, moving, host, port, token, open_browser, device, compute_on, model, recent, learning))
    show = on_ready or (lambda address: print(_announcement(address, app.guard), flush=True))

    def ready(address: str) -> None:
        show(address)
        if open_browser:
            webbrowser.open(app.page_to_open(address))

    app.on_ready = ready
    try:
        app.run()
    except OSError as error:
        raise HyperRegError(
            f"Nothing can be served at {host}:{port}: {error.strerror or error}. Try another port."
        ) from error


def _announcement(address: str, guard: security.Guard) -> str:
    lines = [f"HyperReg is open at {address}", *security.notices(guard.host, guard.token), "Press Ctrl+C to end."]
    return "\n".join(lines)


def import_libraries() -> None:
    """Imports what the app imports when it is made. Raises HyperRegError with what to install."""
    _libraries()
    from hyperreg.view import controller, fusion, page, segmentation, slices, viewing  # noqa: F401  (to have them)


def _libraries() -> tuple[Any, Any]:
    """SlicerApp and get_server. Raises HyperRegError with what to install."""
    try:
        from hyperreg.view import layer_dm

        layer_dm.provide()
        from trame.app import get_server
        from trame_slicer.core import SlicerApp
    except ImportError as error:
        raise HyperRegError(f"{MISSING}\n({error})") from error
    return SlicerApp, get_server
