"""Segmentation through a worker process: the real operation with toy networks whose answer is known."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from head_examples import GRID, INPUTS, head
from imaging_examples import oblique_grid
from segmentation_bench import NETWORKS, OBLIQUE, centre_of, eggs, make_model, scene_centre, truth
from segmentation_worker import MORE

from hyperreg.errors import InputError, WeightsError
from hyperreg.imaging.volume import Volume
from hyperreg.segmentation import model, session
from hyperreg.segmentation.border import RESULT
from hyperreg.segmentation.session import Segmenter
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.device import FELL_BACK
from hyperreg.worker.models import ModelStore
from hyperreg.worker.segmentation import RemoteSegmenter, Segmented, recognise_inputs
from hyperreg.worker.segmenters import Segmenters

SCRIPT = Path(__file__).parents[1] / "helpers" / "segmentation_worker.py"
PATIENCE_S = 120
TWO = [{"name": "T1", "title": "T1"}, {"name": "T2", "title": "T2"}]
# Many windows of 0.1 s each.
MANY_WINDOWS = {"axes": "ras", "spacing_mm": [2.0, 2.0, 2.0], "window": [8, 8, 8], "flips": []}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "NETWORKS", {**model.NETWORKS, **NETWORKS, **MORE})
        patch.setenv("HYPERREG_MODELS", str(folder))
        make_model(folder)
        make_model(folder, "two", inputs=TWO)
        make_model(folder, "slow", network={"name": "slow"}, grid=MANY_WINDOWS)
        make_model(folder, "deadly", network={"name": "deadly"})
        make_model(folder, "deaf", network={"name": "deaf"})
        yield folder


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[WorkerClient]:
    client = WorkerClient(arguments=[str(SCRIPT)])
    yield client
    client.stop()


class Observed(RemoteSegmenter):
    """A segmenter that writes down what it says."""

    def __init__(self, client: WorkerClient) -> None:
        super().__init__(client)
        self.client = client
        self.progress: list[tuple[float, str]] = []
        self.results: list[Segmented] = []
        self.said: list[str] = []
        self.on_progress = lambda fraction, text: self.progress.append((fraction, text))
        self.on_done = self.results.append
        self.on_error = self.said.append
        self.on_cancelled = lambda: self.said.append("cancelled")

    def wait(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while self.running:
            self.client.poll()
            assert time.monotonic() < end, self.client.log
            time.sleep(0.005)

    def result(self, volumes: dict[str, Volume], model: str = "bands", **options: Any) -> Segmented:
        self.segment(volumes, model, device="cpu", **options)
        self.wait()
        assert self.said == [], self.client.log
        return self.results[-1]


@pytest.fixture
def segmenter(client: WorkerClient) -> Observed:
    return Observed(client)


def test_the_result_is_the_engine_s_own_at_its_place_in_mm(segmenter: Observed) -> None:
    image = eggs(OBLIQUE)
    found = segmenter.result({"image": image})
    expected = Segmenter("bands", "cpu").segment({"image": image})
    assert found.labels.array.dtype == np.uint8
    assert np.array_equal(found.labels.array, expected.labels.array)
    assert np.array_equal(found.uncertainty.array, expected.uncertainty.array)
    assert found.labels.grid.matches(OBLIQUE)
    assert found.uncertainty.grid.matches(OBLIQUE)
    for label in (2, 5):
        there = centre_of(Volume(truth(OBLIQUE), OBLIQUE.ijk_to_ras), label)
        assert np.linalg.norm(centre_of(found.labels, label) - there) < 0.7
    assert found.volumes == expected.volumes
    assert found.steps == expected.steps
    assert found.device == "cpu"
    assert set(found.seconds) == {"prepare", "network", "result"}
    fractions = [fraction for fraction, _ in segmenter.progress]
    assert fractions == sorted(fractions)
    assert segmenter.progress[0] == (0.0, "Loading the model")


def levels_of(segmenter: Observed, found: Segmented, label: int) -> np.ndarray | str:
    """What the worker tells of a border, or why not."""
    told: list[Any] = []
    job = segmenter.border(found, label, told.append, told.append)
    assert job.wait(PATIENCE_S), segmenter.client.log
    (answer,) = told
    return answer


def test_where_a_border_can_run_is_told_of_the_last_result_only(segmenter: Observed) -> None:
    image = {"image": eggs(OBLIQUE)}
    first = segmenter.result(image)
    assert segmenter.keeps(first.case)
    for label in (2, 5):
        levels = levels_of(segmenter, first, label)
        assert np.array_equal(levels <= RESULT, first.labels.array == label)
    assert "no structure with the label 9" in levels_of(segmenter, first, 9)
    second = segmenter.result(image)
    assert segmenter.keeps(second.case)
    assert not segmenter.keeps(first.case)
    assert "Segment this one again" in levels_of(segmenter, first, 5)
    # Of two that are asked for, the newest is told.
    told: list[Any] = []
    jobs = [segmenter.border(second, label, told.append, told.append) for label in (2, 5, 2, 5)]
    assert jobs[-1].wait(PATIENCE_S)
    assert [job.state for job in jobs[1:]] == ["superseded", "superseded", "done"]
    assert np.array_equal(told[-1] <= RESULT, second.labels.array == 5)
    segmenter.client.stop()
    assert not segmenter.keeps(second.case)
    third = segmenter.result(image)  # by another worker
    assert not segmenter.keeps(second.case)
    segmenter.segment(image, "bands", device="cpu")
    assert not segmenter.keeps(third.case)
    segmenter.cancel()


def test_the_model_stays_loaded_and_another_one_takes_its_place(segmenter: Observed) -> None:
    image = {"image": eggs(OBLIQUE)}
    segmenter.result(image)
    pid = segmenter.client.pid
    again = segmenter.result(image)
    two = segmenter.result({"T1": eggs(OBLIQUE), "T2": eggs(OBLIQUE, scene_centre(OBLIQUE) + 1)}, "two")
    assert segmenter.client.pid == pid
    assert np.array_equal(two.labels.array, again.labels.array)


def test_another_image_is_aligned_on_request(segmenter: Observed) -> None:
    grid = oblique_grid((30, 26, 20), (2.0, 2.0, 2.5))
    moved = np.eye(4)
    moved[:3, 3] = (4.0, -3.0, 2.0)
    first = eggs(grid)
    other = Volume(2 * eggs(grid).array + 5, moved @ grid.ijk_to_ras, "moved")
    found = segmenter.result({"T1": first, "T2": other}, "two", align=True)
    np.testing.assert_allclose(found.alignment["T2"][:3, 3], moved[:3, 3], atol=0.5)
    assert found.labels.grid.matches(grid)
    assert segmenter.result({"T1": first, "T2": other}, "two").alignment == {}


def test_the_result_lies_on_the_grid_of_the_image_that_is_named_first(segmenter: Observed) -> None:
    volumes = {"T1": eggs(oblique_grid((20, 20, 20), (3.0, 3.0, 3.0))), "T2": eggs(OBLIQUE)}
    assert segmenter.result(volumes, "two", first="T2").labels.grid.matches(OBLIQUE)


def test_the_worker_tells_which_volume_is_which(models: Path, client: WorkerClient) -> None:
    """By names and by a look, on oblique images of a head."""
    inputs = [{"name": entry.name, "title": entry.title} for entry in INPUTS]
    make_model(models, "three", inputs=inputs)
    t1, t2, flair = (head(name, grid, "scan") for name, grid in (("T1", GRID), ("T2", GRID), ("FLAIR", GRID)))
    answers: list[tuple[dict[str, int], str]] = []
    errors: list[str] = []

    def ask(*volumes: Volume, model: str = "three") -> tuple[dict[str, int], str]:
        job = recognise_inputs(client, volumes, model, lambda *found: answers.append(found), errors.append)
        assert job.wait(PATIENCE_S), client.log
        return answers.pop() if answers else ({}, errors.pop())

    found, guess = ask(flair, t1, t2)
    assert found == {"T1": 1, "T2": 2, "FLAIR": 0}
    assert guess.startswith("The names do not tell which image is which; by their contrast")
    named = [Volume(v.array, v.ijk_to_ras, name) for v, name in ((t2, "t2"), (flair, "flair"), (t1, "t1"))]
    assert ask(*named) == ({"T1": 2, "T2": 0, "FLAIR": 1}, "")
    assert ask(t1, t2) == ({}, "")
    moved = Volume(t2.array, np.diag([-1, 1, 1, 1.0]) @ t2.ijk_to_ras, "scan")
    assert ask(t1, moved, flair) == ({}, "")  # it does not lie on the others
    assert "no model 'unheard-of'" in ask(t1, t2, flair, model="unheard-of")[1]


def test_an_empty_structure_is_listed_too(segmenter: Observed) -> None:
    image = eggs(OBLIQUE)
    shell_only = Volume(np.where(image.array > 700, 0, image.array), image.ijk_to_ras, "shell only")
    darkened = Volume(shell_only.array / 2, image.ijk_to_ras, "shell only")
    darkened.array[0, 0, 0] = 1000  # so that the shell is half as bright as the brightest voxel
    found = segmenter.result({"image": darkened})
    volumes = {volume.structure.name: volume for volume in found.volumes}
    assert set(volumes) == {"Core", "Outer shell"}
    for volume in found.volumes:
        assert math.isnan(volume.mean_probability) == (volume.volume_ml == 0)


def test_what_the_model_refuses_is_told_and_the_worker_lives_on(segmenter: Observed) -> None:
    image = eggs(OBLIQUE)
    ct = Volume((image.array - 1000).astype(np.int16), image.ijk_to_ras, "chest")
    segmenter.segment({"image": ct}, "bands", device="cpu")
    started = segmenter.client.generation
    segmenter.wait()
    (message,) = segmenter.said
    assert "'chest' looks like a CT" in message
    assert segmenter.client.generation == started
    segmenter.said.clear()
    segmenter.result({"image": image})


def test_a_model_on_disk_is_its_folder_or_a_zip(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    class Client:
        def submit(self, operation: str, values: dict[str, str]) -> SimpleNamespace:
            asked.append((operation, values["source"]))
            return SimpleNamespace()

    store = ModelStore(Client(), print)
    store.licence(str(tmp_path / "organs" / "model.pt"), print)
    store.add(str(tmp_path / "organs" / "model.pt"), print)
    store.add(f" {tmp_path / 'organs.zip'} ", print)
    store.licence("~/organs", print)
    assert asked == [
        ("licence", str(tmp_path / "organs")),
        ("add_model", str(tmp_path / "organs")),
        ("add_model", str(tmp_path / "organs.zip")),
        ("licence", str(Path.home() / "organs")),
    ]


def test_what_only_some_models_know_reaches_the_engine(segmenter: Observed) -> None:
    for options, said in (
        ({"ensemble": True}, "has one set of weights only"),
        ({"hyperparameters": {"detail": 0.5}}, "detail"),
        ({"flips": True}, "not trained with flipped images"),
    ):
        segmenter.segment({"image": eggs(OBLIQUE)}, "slow", device="cpu", **options)
        segmenter.wait()
        assert said in segmenter.said.pop()


def test_what_cannot_be_asked_is_refused_at_once(segmenter: Observed) -> None:
    with pytest.raises(WeightsError, match="no model 'unheard-of'"):
        segmenter.segment({"image": eggs(OBLIQUE)}, "unheard-of")
    with pytest.raises(InputError, match="wants the images T1, T2, and was given T1"):
        segmenter.segment({"T1": eggs(OBLIQUE)}, "two")
    assert not segmenter.running
    segmenter.segment({"image": eggs(OBLIQUE)}, "slow")
    with pytest.raises(InputError, match="still running"):
        segmenter.segment({"image": eggs(OBLIQUE)}, "bands")
    segmenter.cancel()
    segmenter.wait()


def test_cancelling_ends_between_windows_and_the_worker_lives_on(segmenter: Observed) -> None:
    segmenter.result({"image": eggs(OBLIQUE)})
    pid = segmenter.client.pid
    segmenter.segment({"image": eggs(OBLIQUE)}, "slow", device="cpu")
    while not any(text == "Segmenting" for _, text in segmenter.progress[-1:]):
        segmenter.client.poll()
    segmenter.cancel()
    assert not segmenter.running
    assert segmenter.said == ["cancelled"]
    segmenter.said.clear()
    segmenter.result({"image": eggs(OBLIQUE)})
    assert len(segmenter.results) == 2
    assert segmenter.client.pid == pid


def test_the_next_case_waits_for_a_worker_that_has_to_be_ended(segmenter: Observed) -> None:
    segmenter.result({"image": eggs(OBLIQUE)})
    pid = segmenter.client.pid
    job = segmenter.segment({"image": eggs(OBLIQUE)}, "deaf", device="cpu")
    while job.progress[1] != "Loading the model":
        segmenter.client.poll()
    segmenter.cancel()
    assert segmenter.said == ["cancelled"]
    segmenter.said.clear()
    found = segmenter.result({"image": eggs(OBLIQUE)})
    assert found.labels.array.any()
    assert segmenter.client.pid != pid


@pytest.mark.skipif(sys.platform == "win32", reason="the process is killed by signal")
def test_a_worker_that_dies_is_told_and_the_next_case_starts_another(segmenter: Observed) -> None:
    segmenter.segment({"image": eggs(OBLIQUE)}, "deadly", device="cpu")
    segmenter.wait()
    (message,) = segmenter.said
    assert "HyperReg engine was ended by the system, most likely because memory ran out" in message
    assert not segmenter.running
    segmenter.said.clear()
    segmenter.result({"image": eggs(OBLIQUE)})


def test_a_closed_segmenter_says_nothing_more(segmenter: Observed) -> None:
    segmenter.segment({"image": eggs(OBLIQUE)}, "slow", device="cpu")
    segmenter.close()
    assert not segmenter.running
    other = Observed(segmenter.client)
    other.result({"image": eggs(OBLIQUE)})
    assert segmenter.said == []


class StandInContext:
    """A request in this process."""

    def __init__(self, image: Volume, **parameters: Any) -> None:
        self.inputs = {"image": image.array}
        self.outputs = {"labels": np.zeros(image.shape, np.uint8), "uncertainty": np.zeros(image.shape, np.float32)}
        place = {"image": {"name": image.name, "ijk_to_ras": image.ijk_to_ras.tolist()}}
        given = {
            "first": "image",
            "flips": False,
            "align": False,
            "ensemble": False,
            "hyperparameters": {},
            "case": "1",
        }
        self.parameters = {**given, "model": "bands", "volumes": place, **parameters}
        self.progress = lambda _fraction, _text: None
        self.check = lambda: None
        self.cancelled = lambda: False


def test_without_room_for_the_model_on_the_graphics_card_it_goes_on_with_the_cpu(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    class Full(Segmenter):
        def __init__(self, card: Any, device: str, *options: Any) -> None:
            made.append(device)
            if device != "cpu":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            super().__init__(card, device, *options)

    monkeypatch.setattr(session, "Segmenter", Full)
    image = eggs(OBLIQUE)
    segmenters = Segmenters()
    for _ in range(2):
        context = StandInContext(image, device="auto")
        result = segmenters.segment(context)  # type: ignore[arg-type]
        assert result["device"] == "cpu"
        assert FELL_BACK in result["warnings"]
        assert set(np.unique(context.outputs["labels"])) == {0, 2, 5}
    assert made == ["auto", "cpu"]  # and stays there: the second case finds the model loaded
