"""Fusion in a real worker process, through the client class that module and app use."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from cli_pair import grid, head
from fusion_bench import LABELS, body, dice, noisy
from imaging_examples import oblique_grid

from hyperreg.errors import InputError
from hyperreg.fusion.records import AtlasFiles, AtlasProgress
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.structures import Structure
from hyperreg.imaging.volume import Volume
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.fusion import EarlyAnswer, Fused, RemoteFuser

PATIENCE_S = 300.0
GRID = oblique_grid((26, 24, 22), (1.5, 1.7, 2.0))


class Observed(RemoteFuser):
    """A fuser that writes down what it says."""

    def __init__(self, client: WorkerClient) -> None:
        super().__init__(client)
        self.client = client
        self.results: list[Fused] = []
        self.errors: list[str] = []
        self.cancels = 0
        self.news: list[AtlasProgress] = []
        self.answers: list[EarlyAnswer] = []
        self.on_atlas = self.news.append
        self.on_answer = self.answers.append
        self.told: list[str] = []
        self.on_done = self.results.append
        self.on_error = self.errors.append
        self.on_cancelled = self._cancelled
        self.on_progress = lambda _fraction, text: self.told.append(text)

    def _cancelled(self) -> None:
        self.cancels += 1

    def wait(self) -> Fused:
        end = time.monotonic() + PATIENCE_S
        while self.running and time.monotonic() < end:
            self.client.poll()
            time.sleep(0.01)
        assert not self.running
        assert self.errors == []
        return self.results[-1]


@pytest.fixture(scope="module")
def client(tiny_models: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERREG_MODELS", str(tiny_models))
        made = WorkerClient()
        yield made
        made.stop()


@pytest.fixture
def fuser(client: WorkerClient):
    made = Observed(client)
    yield made
    made.close()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Registrations of one target that several tests have."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("atlases")
    for number, centre in enumerate(((12, -18, 29), (8, -22, 33))):
        image, labels = head(grid((40, 40, 40), (2.5, 2.5, 2.2), centre), (35, 39, 33), f"m{number}")
        write_volume(image, folder / f"m{number}.nii.gz")
        write_volume(labels, folder / f"m{number}_labels.nii.gz")
    write_volume(image, folder / "broken.nii.gz")
    (folder / "broken_labels.nii.gz").write_bytes(b"nothing")
    (folder / "labels.csv").write_text("label,name\n3,front\n7,back\n12,core\n", encoding="utf-8")
    return folder


def test_label_maps_become_a_consensus_with_figures(fuser: Observed) -> None:
    maps = [noisy(body(GRID), share, seed, f"r{seed}") for seed, share in enumerate((0.05, 0.1, 0.15))]
    names = [Structure(label, n, f"S{label}", (10 * n, 20, 30)) for n, label in enumerate(LABELS)]
    fuser.fuse_maps(maps, method="staple", structures=names)
    found = fuser.wait()
    assert found.labels.grid.matches(GRID)
    for label in LABELS:
        assert dice(found.labels.array, body(GRID).array, label) > 0.9
    assert [rater.name for rater in found.raters] == ["r0", "r1", "r2"]
    assert found.raters[0].sensitivity > found.raters[2].sensitivity
    assert {entry.structure.name for entry in found.structures} == {"S3", "S300", "S12"}
    assert np.unique(np.round(3 * found.disagreement.array)).tolist() == [0, 1, 2]


def test_label_maps_on_a_grid_of_ones_own(fuser: Observed) -> None:
    finer = oblique_grid((40, 36, 40), (1.0, 1.2, 1.1))
    affine = np.array(finer.ijk_to_ras)
    affine[:3, 3] += GRID.centre - finer.centre
    place = type(finer)(finer.shape, affine)
    fuser.fuse_maps([body(GRID), body(GRID)], place)
    found = fuser.wait()
    assert found.labels.grid.matches(place)
    middle = place.points()[found.labels.array == 12].mean(axis=0)
    assert np.linalg.norm(middle - GRID.points()[body(GRID).array == 12].mean(axis=0)) < 0.5
    assert any("another grid" in text for text in found.warnings)


def test_a_folder_of_atlases_is_looked_through(fuser: Observed, library: Path) -> None:
    found: list[list] = []
    job = fuser.find_atlases(str(library), found.append, fuser.errors.append)
    end = time.monotonic() + PATIENCE_S
    while not job.ended and time.monotonic() < end:
        fuser.client.poll()
        time.sleep(0.01)
    assert fuser.errors == []
    by_name = {atlas.name: atlas for atlas in found[0]}
    assert set(by_name) == {"m0", "m1", "broken"}
    assert "broken_labels.nii.gz" in by_name["broken"].problem
    assert by_name["broken"].thumbnail is None
    assert by_name["m0"].thumbnail.std() > 10


def test_a_target_by_atlases_and_cancel(fuser: Observed, library: Path, tmp_path: Path, tiny_model: str) -> None:
    target, truth = head(grid((44, 50, 28), (2, 2, 3), (10, -20, 30)), (34, 40, 34), "target")
    fuser.fuse_atlases(target, str(library), lam=1.0, model=tiny_model, cache=str(tmp_path))
    with pytest.raises(InputError, match="still running"):
        fuser.fuse_maps([body(GRID)])
    found = fuser.wait()
    for label in (3, 7, 12):
        assert dice(found.labels.array, truth.array, label) > 0.85
    states = {rater.name: rater.state for rater in found.raters}
    assert states == {"m0": "used", "m1": "used", "broken": "left out"}
    assert [entry.structure.name for entry in found.structures] == ["front", "back", "core"]
    # Of two that run at once, the text of either may be the last before somebody looks.
    assert any("m0: " in text or "m1: " in text for text in fuser.told)
    assert found.method == "local"
    assert found.learned is None
    states = {name: [news.state for news in fuser.news if news.name == name] for name in ("m0", "m1", "broken")}
    assert states["broken"] == ["left out"]
    assert (states["m0"][0], states["m0"][-1]) == ("waiting", "done")
    assert states["m1"][-1] == "done"
    assert any(0 < news.fraction < 1 and news.state == "running" for news in fuser.news)
    assert "broken_labels.nii.gz" in next(news.text for news in fuser.news if news.name == "broken")
    fuser.news.clear()
    fuser.fuse_atlases(target, str(library), method="vote", lam=1.0, model=tiny_model, cache=str(tmp_path))
    assert fuser.wait().method == "vote"
    assert {news.name: news.state for news in fuser.news} == {"m0": "cached", "m1": "cached", "broken": "left out"}
    other = Volume(target.array * 2, target.ijk_to_ras, "other")
    fuser.fuse_atlases(other, str(library), lam=1.0, model=tiny_model, cache=str(tmp_path))
    fuser.cancel()
    while fuser.running:
        fuser.client.poll()
        time.sleep(0.01)
    assert fuser.cancels == 1
    assert len(fuser.results) == 2


def test_learning_is_cancelled_kept_gone_on_with_and_finished_early(
    fuser: Observed, library: Path, cache: Path, tiny_model: str
) -> None:
    # Large voxels: steps of learning that a busy computer takes within the time of a cancellation.
    target, truth = head(grid((22, 26, 24), (4, 4, 4), (10, -20, 30)), (34, 40, 34), "target")

    def start() -> None:
        fuser.told.clear()
        fuser.fuse_atlases(
            target, str(library), method="dp", lam=1.0, model=tiny_model, cache=str(cache), steps=200
        )  # fmt: skip

    def steps() -> list[int]:
        return [int(text.split()[-3]) for text in fuser.told if "step" in text]

    start()
    end = time.monotonic() + PATIENCE_S
    while fuser.running and time.monotonic() < end:
        fuser.client.poll()
        # On a busy computer a step takes longer than a cancellation may, and the worker is ended.
        if list(cache.glob("learned/*/data_parameters.pt")):
            fuser.cancel()
        time.sleep(0.01)
    assert (fuser.cancels, fuser.results, fuser.errors) == (1, [], [])
    assert max(steps(), default=0) < 200
    fuser.answers.clear()
    start()
    end = time.monotonic() + PATIENCE_S
    while fuser.running and time.monotonic() < end:
        fuser.client.poll()
        if fuser.answers:
            fuser.finish()
        time.sleep(0.01)
    assert fuser.errors == []
    assert steps()[0] > 1
    (early, *_more), (found,) = fuser.answers, fuser.results
    assert found.learned is not None
    assert early.learned.steps % 25 == 0
    assert [entry.name for entry in early.structures] == [entry.structure.name for entry in found.structures]
    assert (early.learned.wanted, early.learned.finished) == (200, False)
    assert early.learned.steps <= found.learned.steps < 200
    assert [row.name for row in found.learned.atlases] == ["m0", "m1"]
    assert sum(row.weight for row in found.learned.atlases) == pytest.approx(1)
    assert any("early answer" in text for text in found.warnings)
    for labels in (early.labels, found.labels):
        assert labels.grid.matches(target.grid)
        assert dice(labels.array, truth.array, 7) > 0.85


def test_a_list_of_pairs_of_files(fuser: Observed, library: Path, cache: Path, tiny_model: str) -> None:
    target, truth = head(grid((22, 26, 24), (4, 4, 4), (10, -20, 30)), (34, 40, 34), "target")
    one, two = (library / f"m0{ending}" for ending in (".nii.gz", "_labels.nii.gz"))
    pairs = [AtlasFiles("left hand", one, two, 1.0), AtlasFiles("lost", one, library / "lost.nii.gz")]
    names = [Structure(7, 0, "Front of it", (1, 2, 3)), Structure(12, 1, "Core of it", (4, 5, 6))]
    fuser.fuse_atlases(target, pairs, model=tiny_model, cache=str(cache), structures=names)
    found = fuser.wait()
    assert dice(found.labels.array, truth.array, 7) > 0.85
    assert {rater.name: (rater.state, rater.lam) for rater in found.raters} == {
        "left hand": ("used", 1.0), "lost": ("left out", None),
    }  # fmt: skip
    assert {s.structure.label: s.structure.name for s in found.structures} == {
        3: "Label 3", 7: "Front of it", 12: "Core of it",
    }  # fmt: skip
    assert found.structures[1].structure.colour == (1, 2, 3)
    looked: list[list] = []
    job = fuser.find_atlases(pairs, looked.append, fuser.errors.append)
    assert job.wait(PATIENCE_S)
    assert fuser.errors == []
    assert {atlas.name: atlas.problem for atlas in looked[0]} == {
        "left hand": "", "lost": "'lost.nii.gz' does not exist.",
    }  # fmt: skip
    fuser.fuse_atlases(target, [], model=tiny_model)
    while fuser.running:
        fuser.client.poll()
        time.sleep(0.01)
    assert "holds no atlas" in fuser.errors.pop()


def test_what_is_wrong_is_told_in_words(fuser: Observed, tmp_path: Path) -> None:
    target, _truth = head(grid((24, 24, 24), (3, 3, 3), (0, 0, 0)), (30, 30, 30), "target")
    fuser.fuse_atlases(target, str(tmp_path / "nowhere"))
    while fuser.running:
        fuser.client.poll()
        time.sleep(0.01)
    assert "does not exist" in fuser.errors.pop()
    with pytest.raises(InputError, match="at least one label map"):
        fuser.fuse_maps([])
