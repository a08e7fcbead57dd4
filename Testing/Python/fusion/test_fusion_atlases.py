"""The multi-atlas pipeline: folders, cache, failed registrations, and every kind of bad input in between."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import numpy as np
import pytest
from atlas_bench import GRID, SHIFTS, FakeRegistration, place, target, write_library
from fusion_bench import LABELS, body, dice, picture

from hyperreg.errors import Cancelled, FileError, InputError
from hyperreg.fusion import cache as cache_module
from hyperreg.fusion.atlases import AtlasSettings, Loader, carry
from hyperreg.fusion.cache import Cache, content_hash, default_folder, key_of
from hyperreg.fusion.library import find_atlases, read_atlases, thumbnail
from hyperreg.fusion.records import AtlasProgress
from hyperreg.fusion.registering import Registered
from hyperreg.fusion.run import Method, fuse_carried
from hyperreg.fusion.voting import vote
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.structures import Meaning
from hyperreg.imaging.volume import Volume

ALL = tuple(SHIFTS)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tiny_model: str) -> FakeRegistration:
    """Registrations of which only the pipeline around them is real."""
    registration = FakeRegistration()
    monkeypatch.setattr("hyperreg.fusion.parallel.register_atlas", registration)
    return registration


def settings(tmp_path: Path, **changes) -> AtlasSettings:
    return AtlasSettings(**{"lam": 0.3, "jobs": 1, "cache": tmp_path / "cache", **changes})


def rows_of(carried) -> dict[str, tuple[str, str]]:
    return {row.name: (row.state, row.reason) for row in carried.rows}


def test_labels_land_where_the_target_has_them(tmp_path: Path, fake: FakeRegistration) -> None:
    loader = Loader(find_atlases(write_library(tmp_path / "atlases")))
    news: list[AtlasProgress] = []
    carried = carry(target(), loader, settings(tmp_path), with_images=True, watch=news.append)
    truth = body(GRID)
    found = vote(carried.stack).labels
    for label in LABELS:
        assert dice(found.array, truth.array, label) > 0.88  # voxels of 1.5 to 2 mm, resampled
    middle = [GRID.points()[labels.array == 12].mean(axis=0) for labels in (found, truth)]
    assert np.linalg.norm(middle[0] - middle[1]) < 0.3  # mm
    inside = truth.array > 0
    assert all(np.corrcoef(image.array[inside], target().array[inside])[0, 1] > 0.8 for image in carried.images)
    assert {one.name for one in news} == set(ALL)
    assert [(one.state, one.fraction, one.text) for one in news if one.name == "a1"] == [
        ("waiting", 0.0, "Waiting"), ("running", 0.5, "Aligning"), ("done", 1.0, "Registered"),
    ]  # fmt: skip


def test_another_method_costs_no_registration_another_lambda_only_the_deformation(
    tmp_path: Path, fake: FakeRegistration
) -> None:
    loader = Loader(find_atlases(write_library(tmp_path / "atlases")))
    carry(target(), loader, settings(tmp_path))
    assert len(fake.calls) == 4
    again = carry(target("another name"), loader, settings(tmp_path), with_images=True)
    assert len(fake.calls) == 4
    assert all(row.cached for row in again.rows)
    given: list[bool] = []
    original = fake.__call__

    def with_linear(task, progress=None, cancelled=None) -> Registered:
        given.append(task.linear is not None)
        return original(task, progress, cancelled)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyperreg.fusion.parallel.register_atlas", with_linear)
        carry(target(), loader, settings(tmp_path, lam=0.7))
        other = Volume(target().array + 1, GRID.ijk_to_ras, "other")
        carry(other, loader, settings(tmp_path))
    assert given == [True] * 4 + [False] * 4


def test_a_lambda_of_its_own(tmp_path: Path, fake: FakeRegistration) -> None:
    folder = write_library(tmp_path / "atlases")
    (folder / "atlases.csv").write_text(
        "name,image,labels,lambda\na1,a1_T1.nii.gz,a1_labels.nii.gz,0.9\na2,a2_T1.nii.gz,a2_labels.nii.gz,\n"
        "a3,a3_T1.nii.gz,a3_labels.nii.gz,0.1\n",
        encoding="utf-8",
    )
    carry(target(), Loader(find_atlases(folder)), settings(tmp_path, lambdas={"a3": 0.2}))
    assert sorted(fake.calls) == [("a1", 0.9), ("a2", 0.3), ("a3", 0.2)]


def test_selection_keeps_the_most_similar_after_the_affine(tmp_path: Path, fake: FakeRegistration) -> None:
    loader = Loader(find_atlases(write_library(tmp_path / "atlases")))
    carried = carry(target(), loader, settings(tmp_path, select=2))
    assert carried.stack.names == ("a3", "a4")
    assert rows_of(carried)["a1"][0] == "not selected"
    assert fake.calls[4:] == [("a3", 0.3), ("a4", 0.3)]


def test_failed_registrations_are_left_out_by_name(tmp_path: Path, fake: FakeRegistration) -> None:
    loader = Loader(find_atlases(write_library(tmp_path / "atlases")))
    fake.similarities = {"a1": 0.2}
    fake.folding = {"a2": 12.0}
    fake.errors = {"a3": "After the initial alignment the images do not overlap."}
    carried = carry(target(), loader, settings(tmp_path))
    assert carried.stack.names == ("a4",)
    found = rows_of(carried)
    assert "similarity 0.20, after the affine part 0.50" in found["a1"][1]
    assert "12.0 % of the voxels are folded" in found["a2"][1]
    assert "do not overlap" in found["a3"][1]
    (text,) = [text for text in carried.warnings if text.startswith("Left out")]
    assert all(name in text for name in ("a1", "a2", "a3"))
    assert any("only one label map" in text for text in vote(carried.stack).warnings)
    fake.similarities = {"a1": 0.2, "a4": 0.2}
    with pytest.raises(InputError, match="No atlas could be registered to 'target'"):
        carry(target(), loader, settings(tmp_path, lam=0.4))


def test_a_similarity_far_below_the_others_is_a_failure(tmp_path: Path, fake: FakeRegistration) -> None:
    loader = Loader(find_atlases(write_library(tmp_path / "atlases")))
    fake.similarities = {"a1": 0.55, "a2": 0.80, "a3": 0.82, "a4": 0.84}
    found = rows_of(carry(target(), loader, settings(tmp_path)))
    assert found["a1"] == ("left out", "The registration failed: similarity 0.55, half of the others reach 0.81.")
    assert [state for state, _reason in found.values()].count("used") == 3


def test_an_atlas_that_is_the_target_does_not_vote(tmp_path: Path, fake: FakeRegistration) -> None:
    folder = write_library(tmp_path / "atlases", ("a1", "a2"))
    write_volume(target(), folder / "same_T1.nii.gz")
    write_volume(body(GRID), folder / "same_labels.nii.gz")
    carried = carry(target(), Loader(find_atlases(folder)), settings(tmp_path))
    assert carried.stack.names == ("a1", "a2")
    assert rows_of(carried)["same"] == ("left out", "It is the target itself: the same voxels.")
    # Its image on other voxels is told by how alike the affine alignment alone makes them.
    fake.similarities, fake.before = {"a1": 0.995}, {"a1": 0.999, "a2": 0.93}
    carried = carry(target(), Loader(find_atlases(folder)), settings(tmp_path, cache=None))
    told = [text for text in carried.warnings if text.startswith("Nearly the target's own image: a1.")]
    assert len(told) == 1
    for path in folder.glob("a*"):
        path.unlink()
    with pytest.raises(InputError, match="The only atlas is the target itself"):
        carry(target(), Loader(find_atlases(folder)), settings(tmp_path))


def test_broken_and_empty_files_in_the_middle_are_named_and_the_rest_goes_on(
    tmp_path: Path, fake: FakeRegistration
) -> None:
    folder = write_library(tmp_path / "atlases")
    whole = (folder / "a2_labels.nii.gz").read_bytes()
    (folder / "a2_labels.nii.gz").write_bytes(whole[: len(whole) // 2])
    write_volume(Volume(np.zeros((5, 5, 5), np.uint8), np.eye(4), "e"), folder / "a3_labels.nii.gz")
    half = body(place("a4"))
    write_volume(Volume(half.array + np.float32(0.4), half.ijk_to_ras, "h"), folder / "a4_labels.nii.gz")
    carried = carry(target(), Loader(find_atlases(folder)), settings(tmp_path))
    assert carried.stack.names == ("a1",)
    found = rows_of(carried)
    assert "a2_labels.nii.gz" in found["a2"][1]
    assert "is empty" in found["a3"][1]
    assert "is not a label map" in found["a4"][1]


def test_a_library_says_what_does_not_fit(tmp_path: Path) -> None:
    folder = write_library(tmp_path / "atlases", ("a1", "a2"))
    write_volume(picture(GRID), folder / "a2_T2.nii.gz")
    write_volume(body(GRID), folder / "lost_labels.nii.gz")
    write_volume(picture(GRID), folder / "a10_T1.nii.gz")  # begins with a1, but is another name
    library = find_atlases(folder)
    assert [atlas.name for atlas in library.atlases] == ["a1"]
    assert "several images begin with 'a2'" in library.skipped["a2"]
    assert "no image beside 'lost_labels.nii.gz'" in library.skipped["lost"]
    with pytest.raises(FileError, match="does not exist"):
        find_atlases(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no atlas"):
        find_atlases(tmp_path / "empty")


def test_a_list_of_atlases_is_checked_row_by_row(tmp_path: Path) -> None:
    folder = write_library(tmp_path / "atlases", ("a1", "a2"))
    lines = ["image,labels,lambda", "a1_T1.nii.gz,a1_labels.nii.gz,", "gone.nii.gz,a2_labels.nii.gz,",
             "a2_T1.nii.gz,a1_labels.nii.gz,2", "a2_T1.nii.gz,a1_labels.nii.gz,stiff"]  # fmt: skip
    (folder / "atlases.csv").write_text("\n".join(lines), encoding="utf-8")
    library = find_atlases(folder)
    assert [atlas.name for atlas in library.atlases] == ["a1"]
    assert library.skipped["a2"] == "'gone.nii.gz' does not exist."
    (folder / "atlases.csv").write_text("Image;Labels;Lambda\na1_T1.nii.gz;a1_labels.nii.gz;0,3\n", encoding="utf-8")
    assert [(atlas.name, atlas.lam) for atlas in find_atlases(folder).atlases] == [("a1", 0.3)]
    (folder / "atlases.csv").write_text("picture\nx", encoding="utf-8")
    with pytest.raises(FileError, match="columns 'image' and 'labels'"):
        find_atlases(folder)


def test_atlases_with_other_numbers_are_matched_by_name(tmp_path: Path, fake: FakeRegistration) -> None:
    folder = write_library(tmp_path / "atlases", ("a1", "a2"))
    (folder / "a1_labels.csv").write_text("label,name\n3,front\n300,back\n12,core\n", encoding="utf-8")
    there = body(place("a2")).array
    swapped = np.select([there == 3, there == 300, there == 12], [12, 3, 40], 0).astype(np.int16)
    write_volume(Volume(swapped, place("a2").ijk_to_ras, "a2"), folder / "a2_labels.nii.gz")
    (folder / "a2_labels.csv").write_text("label,name\n12,Front\n3,Back\n40,core\n", encoding="utf-8")
    carried = carry(target(), Loader(find_atlases(folder)), settings(tmp_path))
    numbers = {meaning.key: label for label, meaning in carried.table.items()}
    assert sorted(numbers) == ["back", "core", "front"]
    assert carried.stack.labels.tolist() == [0, *sorted(numbers.values())]
    assert any("numbers its structures differently" in text for text in carried.warnings)
    fused = vote(carried.stack).labels.array
    for name, label in {"front": 3, "back": 300, "core": 12}.items():
        assert dice(np.where(fused == numbers[name], label, 0), body(GRID).array, label) > 0.88


def test_a_thumbnail_shows_the_middle_of_the_labels_in_their_colours(tmp_path: Path) -> None:
    library = find_atlases(write_library(tmp_path / "atlases", ("a1",)))
    atlas = read_atlases(library)[0]["a1"]
    table = {300: Meaning("Behind", (255, 0, 0))}
    shown = thumbnail(atlas, table, 64).astype(int)
    assert shown.shape == (64, 64, 3)
    coloured = np.ptp(shown, axis=2) > 40
    assert 50 < coloured.sum() < 2000 and not coloured[0].any()
    # Label 300 lies behind: in the lower half of the picture, in its own colour; the other one has a made-up colour.
    red = (shown[..., 0] - shown[..., 1:].max(axis=2) > 80) & coloured
    rows = np.nonzero(red)[0]
    assert len(rows) > 20 and rows.mean() > 34
    assert (coloured & ~red).any()


def registered() -> Registered:
    return FakeRegistration()(type("T", (), {"name": "a1", "lam": 0.3, "image": picture(place("a1"))})())


def test_the_cache_gives_back_what_was_kept_and_forgives_what_is_broken(tmp_path: Path) -> None:
    cache, one = Cache(tmp_path / "new" / "cache"), registered()
    key = key_of(image="x", lam=0.3)
    assert cache.load(key) is None
    cache.save(key, one)
    again = cache.load(key)
    assert np.array_equal(again.linear, one.linear)
    assert np.array_equal(again.field.array, one.field.array)
    assert again.figures == one.figures
    (path,) = (tmp_path / "new" / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:200])
    assert cache.load(key) is None
    path.write_bytes(b"no archive")
    assert cache.load(key) is None
    assert key_of(image="x", lam=0.3) == key != key_of(image="x", lam=0.31)


def test_the_hash_is_of_voxels_and_place_not_of_the_name() -> None:
    one = picture(GRID)
    moved = np.array(GRID.ijk_to_ras)
    moved[0, 3] += 1
    assert content_hash(one) == content_hash(picture(GRID, name="other"))
    assert content_hash(one) != content_hash(Volume(one.array, moved, "image"))
    assert content_hash(one) != content_hash(Volume(one.array + 1, GRID.ijk_to_ras, "image"))


def test_a_full_disk_costs_the_cache_not_the_result(
    tmp_path: Path, fake: FakeRegistration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments, **_options) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module.np, "savez", full)
    loader = Loader(find_atlases(write_library(tmp_path / "atlases")))
    carried = carry(target(), loader, settings(tmp_path))
    assert carried.stack.names == ALL
    assert any("not kept for the next time" in text and "disk is full" in text for text in carried.warnings)
    assert not any((tmp_path / "cache").iterdir())


def test_the_oldest_registrations_make_room(tmp_path: Path) -> None:
    one = registered()
    cache = Cache(tmp_path, largest=5000)
    for n in range(6):
        cache.save(str(n), one)
    left = sorted(path.stem for path in tmp_path.iterdir())
    assert left[-1] == "5"
    assert 0 < len(left) < 6


def test_two_runs_over_one_cache(tmp_path: Path, fake: FakeRegistration) -> None:
    folder = write_library(tmp_path / "atlases")
    found: list[np.ndarray] = []

    def run() -> None:
        carried = carry(target(), Loader(find_atlases(folder)), settings(tmp_path))
        found.append(vote(carried.stack).labels.array)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(np.array_equal(found[0], other) for other in found[1:])
    assert all(path.suffix == ".npz" for path in (tmp_path / "cache").iterdir())
    calls = len(fake.calls)
    run()
    assert len(fake.calls) == calls


def test_cancelled_registrations_keep_what_was_done(tmp_path: Path, fake: FakeRegistration) -> None:
    loader = Loader(find_atlases(write_library(tmp_path / "atlases")))
    with pytest.raises(Cancelled):
        carry(target(), loader, settings(tmp_path), cancelled=lambda: len(fake.calls) >= 2)
    assert len(fake.calls) == 2
    carry(target(), loader, settings(tmp_path))
    assert len(fake.calls) == 4


def test_no_cache_and_the_place_of_the_usual_one(
    tmp_path: Path, fake: FakeRegistration, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = Loader(find_atlases(write_library(tmp_path / "atlases", ("a1", "a2"))))
    for _ in range(2):
        carry(target(), loader, settings(tmp_path, cache=None))
    assert len(fake.calls) == 4
    monkeypatch.setenv("HYPERREG_CACHE", str(tmp_path / "mine"))
    assert default_folder() == tmp_path / "mine"


def test_local_voting_uses_the_carried_images(tmp_path: Path, fake: FakeRegistration) -> None:
    loader = Loader(find_atlases(write_library(tmp_path / "atlases")))
    carried = carry(target(), loader, settings(tmp_path), with_images=True)
    result = fuse_carried(target(), carried, Method("local")).consensus
    assert result.method == "local"
    for label in LABELS:
        assert dice(result.labels.array, body(GRID).array, label) > 0.88
