"""Models from elsewhere: MONAI bundles go in and give what MONAI gives; whatever holds code is refused."""

from __future__ import annotations

import copy
import os
import pickle
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_examples import INFERENCE, METADATA, changed, make_network, write_bundle, zipped
from cli_pair import run
from imaging_examples import oblique_grid, scene
from monai.inferers import sliding_window_inference
from monai.networks import nets
from monai.transforms import NormalizeIntensity
from segmentation_bench import make_card

from hyperreg import catalogue
from hyperreg.cli.console import ExitCode
from hyperreg.errors import FileError, HyperRegError, InputError, WeightsError
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation import licences
from hyperreg.segmentation.bundles import add_model, licence_text, remove_model
from hyperreg.segmentation.catalogue import list_models
from hyperreg.segmentation.session import Segmenter


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "brats_mri_segmentation")


@pytest.mark.parametrize("packed", [False, True])
def test_a_bundle_goes_in_with_all_that_is_known_of_it(bundle: Path, tmp_path: Path, packed: bool) -> None:
    source = zipped(bundle, tmp_path / "brats_mri_segmentation.zip") if packed else bundle
    card = add_model(source, tmp_path / "models")
    assert card.folder == tmp_path / "models" / "brats_mri_segmentation"
    assert sorted(path.name for path in card.folder.iterdir()) == ["LICENSE", "card.json", "weights.safetensors"]
    assert (card.title, card.version, card.licence) == (
        "Multimodal Brain Tumor segmentation",
        "0.5.3",
        "Some Licence 1.0",
    )
    assert [entry.name for entry in card.inputs] == ["T1c", "T1", "T2", "FLAIR"]
    assert (card.modality, card.exclusive, card.window, card.axes) == ("MR", False, (16, 16, 16), "lps")
    assert (card.intensities, card.spacing_mm) == ("nonzero", (1.0, 1.0, 1.0))
    # Painted largest first, with BraTS's label values: what the bundle's own (unread) lambda does.
    assert [(s.label, s.channel) for s in card.structures] == [(2, 1), (1, 0), (4, 2)]


def test_a_bundle_gives_what_monai_gives(bundle: Path, tmp_path: Path) -> None:
    """The same network on the same images, once by MONAI alone in BraTS's order of axes (L, P, S), once by us."""
    card = add_model(bundle, tmp_path / "models")
    grid = Grid((24, 20, 18), np.diag([1.0, 1.0, 1.0, 1.0]))
    random = np.random.default_rng(0)
    arrays = [random.random(grid.shape, dtype=np.float32) + n for n in range(4)]
    for array in arrays:
        array[:2] = 0
    volumes = {
        entry.name: Volume(array, grid.ijk_to_ras, entry.name) for entry, array in zip(card.inputs, arrays, strict=True)
    }
    given: dict[int, np.ndarray] = {}
    found = Segmenter(card, "cpu").segment(volumes, sink=lambda s, values: given.update({s.channel: values.array}))
    normalised = NormalizeIntensity(nonzero=True, channel_wise=True)(np.stack(arrays)[:, ::-1, ::-1].copy())
    with torch.inference_mode():
        logits = sliding_window_inference(
            torch.as_tensor(normalised)[None].float(), (16, 16, 16), 1, make_network(), overlap=0.5, mode="gaussian"
        )
    expected = torch.sigmoid(logits)[0].numpy()[:, ::-1, ::-1]
    for channel in range(3):
        np.testing.assert_allclose(given[channel], expected[channel], atol=0.02)  # half precision on some CPUs
    core, whole, enhancing = expected > 0.5
    labels = np.where(enhancing, 4, np.where(core, 1, np.where(whole, 2, 0)))
    assert (found.labels.array != labels).mean() < 0.02


def test_a_ct_bundle_with_orientation_spacing_and_window(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"spatial_dims": 3, "channels": [4, 8], "strides": [2], "num_res_units": 1, "norm": "batch"}
    network = nets.UNet(in_channels=1, out_channels=2, **options)
    inference = copy.deepcopy(INFERENCE)
    inference["network_def"] = {"_target_": "monai.networks.nets.UNet", "in_channels": 1, "out_channels": 2, **options}
    inference["preprocessing"]["transforms"] = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
        {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1,
         "clip": True},
        {"_target_": "EnsureTyped", "keys": "image"},
    ]  # fmt: skip
    inference["postprocessing"]["transforms"] = [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]
    metadata = copy.deepcopy(METADATA)
    metadata["network_data_format"] = {
        "inputs": {"image": {"modality": "CT", "channel_def": {"0": "image"}}},
        "outputs": {"pred": {"channel_def": {"0": "background", "1": "spleen"}}},
    }
    card = add_model(write_bundle(tmp_path / "spleen", inference, metadata, network.state_dict()), tmp_path / "models")
    assert (card.axes, card.spacing_mm, card.exclusive, card.modality) == ("ras", (1.5, 1.5, 2.0), True, "CT")
    assert (card.intensities, card.intensity_window) == ("window", (-57, 164))
    assert [(s.label, s.channel, s.name) for s in card.structures] == [(1, 1, "spleen")]
    grid = oblique_grid((21, 17, 13), (0.9, 1.1, 3.0))
    image = Volume(scene(grid).array - 1000, grid.ijk_to_ras, "ct")
    assert Segmenter(card, "cpu").segment({"image": image}).labels.grid.matches(grid)


@pytest.mark.parametrize(
    ("inference", "words"),
    [
        (changed(["network_def", "init_filters"], "$__import__('os').system('true')"), r"expression '\$__import__"),
        (changed(["network_def"], "$make_network()"), "network_def"),
        (changed(["network_def", "act"], ["@danger"]), "expression '@danger'"),
        (changed(["inferer", "roi_size"], "$@roi"), "expression"),
        (changed(["preprocessing", "transforms", 1, "nonzero"], "$True"), "expression"),
        (changed(["preprocessing"], "$Compose()"), "not a plain list of transforms"),
        (changed(["network_def", "_target_"], "subprocess.Popen"), "network is 'Popen'.*never run"),
        (changed(["network_def", "hook"], 1), "'hook'"),
        (changed(["preprocessing", "transforms", 1, "_target_"], "HistogramNormalized"), "'HistogramNormalized'"),
        (changed(["postprocessing", "transforms"], []), "exclude each other"),
    ],
)
def test_expressions_and_unknown_parts_are_refused(tmp_path: Path, inference: dict[str, Any], words: str) -> None:
    source = write_bundle(tmp_path / "bundle", inference)
    with pytest.raises(WeightsError, match=words):
        add_model(source, tmp_path / "models")
    assert not (tmp_path / "models").exists()


class Malicious:
    """Runs a command when it is unpickled the usual way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_not_run(bundle: Path, tmp_path: Path) -> None:
    with (bundle / "models" / "model.pt").open("wb") as file:
        pickle.dump({"state_dict": Malicious(tmp_path / "harm")}, file, protocol=2)
    with pytest.raises(WeightsError, match="holds code"):
        add_model(bundle, tmp_path / "models")
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    "name", ["../outside.txt", "/outside.txt", "a/../../outside.txt", "C:\\outside.txt", "..\\o.txt"]
)
def test_a_zip_that_leaves_its_folder_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    path = zipped(bundle, tmp_path / "bundle.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), "harm")
    for use in (lambda: add_model(path, tmp_path / "models"), lambda: licence_text(path)):
        with pytest.raises(WeightsError, match="outside of the model's folder"):
            use()
    assert not list(tmp_path.glob("**/outside.txt"))


def test_a_zip_with_a_link_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = zipped(bundle, tmp_path / "bundle.zip")
    link = zipfile.ZipInfo("bundle/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(WeightsError, match="outside of the model's folder"):
        add_model(path, tmp_path / "models")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    other = nets.SegResNet(in_channels=4, out_channels=3, init_filters=16, blocks_down=(1, 1), blocks_up=(1,))
    with pytest.raises(WeightsError, match="not those of its network"):
        add_model(write_bundle(tmp_path / "bundle", state=other.state_dict()), tmp_path / "models")


@pytest.mark.parametrize(
    ("harm", "error", "words"),
    [
        (lambda b: (b / "configs" / "inference.json").write_text("{", encoding="utf-8"), WeightsError, "not JSON"),
        (lambda b: (b / "configs" / "inference.json").unlink(), WeightsError, "YAML"),
        (lambda b: (b / "configs" / "metadata.json").unlink(), WeightsError, "is no model"),
        (lambda b: (b / "models" / "model.pt").unlink(), WeightsError, "TorchScript"),
        (lambda b: (b / "models" / "model.pt").write_bytes(b"x" * 99), WeightsError, "damaged"),
        (lambda b: torch.save([1, 2], b / "models" / "model.pt"), WeightsError, "something else"),
    ],
)
def test_damaged_bundles_are_refused(
    bundle: Path, tmp_path: Path, harm: Any, error: type[HyperRegError], words: str
) -> None:
    harm(bundle)
    with pytest.raises(error, match=words):
        add_model(bundle, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("no zip", encoding="utf-8")
    with pytest.raises(FileError, match="not a zip file"):
        add_model(tmp_path / "a.zip", tmp_path / "models")
    for use in (lambda source: add_model(source, tmp_path / "models"), licence_text):
        with pytest.raises(FileError, match="does not exist"):
            use(tmp_path / "absent")
    assert run("models", "--add", str(tmp_path / "absent")) == ExitCode.FILE


def test_our_own_models_are_copied_and_removed_again(tmp_path: Path) -> None:
    made = make_card(tmp_path / "made")
    (made.folder / "notes.py").write_text("print()", encoding="utf-8")
    card = add_model(made.folder, tmp_path / "models")
    assert sorted(path.name for path in card.folder.iterdir()) == ["card.json", "weights.safetensors"]
    assert card.sha256 == made.sha256
    with pytest.raises(InputError, match="already"):
        add_model(made.folder, tmp_path / "models")
    with pytest.raises(InputError, match="not added here"):
        remove_model(made, tmp_path / "models")
    remove_model(card, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []
    assert made.folder.is_dir()


def test_the_command_asks_for_the_licence_adds_and_removes(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("typer.confirm", lambda _: False)
    assert run("models", "--add", str(bundle)) == ExitCode.CANCELLED
    assert "You may." in capsys.readouterr().out
    assert not (tmp_path / "models").exists()
    monkeypatch.setattr("typer.confirm", lambda _: True)
    assert run("models", "--add", str(bundle)) == 0
    assert run("models", "--add", str(bundle), "--accept-licence") == ExitCode.INPUT
    (added,) = (card for card in list_models() if card.name == "brats_mri_segmentation")
    assert licences.is_accepted(added)
    capsys.readouterr()
    assert run("models") == 0
    assert "inputs (MR): T1c, T1, T2, FLAIR" in capsys.readouterr().out
    assert run("models", "--remove", "brats_mri_segmentation") == 0
    assert "brats_mri_segmentation" not in [card.name for card in list_models()]
    assert not licences.is_accepted(added)
    assert run("models", "--remove", "brats_mri_segmentation") == ExitCode.WEIGHTS


def test_models_that_come_with_hyperreg_are_neither_replaced_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor hidden behind an added one of their name."""
    ours = make_card(tmp_path / "Resources")
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(catalogue, "model_folders", lambda: [tmp_path / "models", tmp_path / "Resources"])
    assert run("models", "--add", str(ours.folder), "--accept-licence") == ExitCode.INPUT
    assert run("models", "--remove", ours.name) == ExitCode.INPUT
    assert ours.weights.is_file()
    assert not (tmp_path / "models").exists()
