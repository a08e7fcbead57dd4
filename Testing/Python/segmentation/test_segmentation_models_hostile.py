"""Models that are damaged, absurd or hostile: a sentence, no memory, and nothing else stops working."""

from __future__ import annotations

import json
import resource
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_examples import INFERENCE, METADATA, changed, make_network, write_bundle, zipped
from cli_pair import run
from segmentation_bench import card_entries, make_card

from hyperreg.catalogue import CARD, WEIGHTS
from hyperreg.cli.console import ExitCode
from hyperreg.errors import FileError, HyperRegError, WeightsError
from hyperreg.nets.weights import save_weights
from hyperreg.registration import catalogue as registration
from hyperreg.registration.model import SMALL_NETWORK, new_card, save_untrained
from hyperreg.registration.model import load_model as load_registration
from hyperreg.segmentation.bundles import add_model
from hyperreg.segmentation.catalogue import find_model, list_models, read_card
from hyperreg.segmentation.model import load_model


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of models, with one that is intact."""
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path / "models"))
    make_card(tmp_path / "models")
    return tmp_path / "models"


def seg(**changes: Any) -> str:
    return json.dumps({"sha256": "0", **card_entries(), **changes})


def reg(**changes: Any) -> str:
    return json.dumps({"sha256": "0", **new_card("bad", SMALL_NETWORK), **changes})


GRID = {"axes": "ras", "spacing_mm": [1, 1, 1], "window": [32, 32, 32]}
BAD_CARDS = {
    "infinity": seg(memory_gb=float("inf")),
    "overflow": seg().replace('"channels": 3', '"channels": 1e999'),
    "nan": reg(grid={"spacing_mm": float("nan"), "max_shape": [80, 96, 112], "multiple": 16}),
    "deep": '{"kind": ' + "[" * 200_000 + "]" * 200_000 + "}",
    "digits": seg().replace('"channels": 3', '"channels": ' + "9" * 6000),
    "list": "[1, 2]",
    "text": '"card"',
    "kind": seg(kind=["a", "list"]),
    "structures": seg(structures={"a": 1}),
    "colour": seg(structures=[{"label": 1, "channel": 1, "name": "x", "colour": None}]),
    "window": seg(grid={**GRID, "window": [1 << 20] * 3}),
    "voxels": seg(grid={**GRID, "spacing_mm": [1e-9, 1, 1]}),
    "passes": reg(network={**SMALL_NETWORK, "passes": 10**9}),
    "shape": reg(grid={"spacing_mm": 2.0, "max_shape": [10**6] * 3, "multiple": 16}),
    "default": reg(hyperparameters=[{"name": "lambda", "title": "x", "default": 7}]),
    "binary": "\udc80\udcff",
    "large": '{"kind": "' + "x" * (5 << 20) + '"}',
}


@pytest.mark.parametrize("name", BAD_CARDS)
def test_one_bad_card_costs_that_model_only_and_can_be_removed(
    own: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "bad").mkdir()
    (own / "bad" / CARD).write_bytes(BAD_CARDS[name].encode("utf-8", "surrogateescape"))
    for read in (read_card, registration.read_card):
        with pytest.raises(WeightsError) as raised:
            read(own / "bad")
        assert len(str(raised.value)) < 1000
    assert "bands" in [card.name for card in list_models()]
    assert registration.list_models()
    for find in (find_model, registration.find_model):
        with pytest.raises(WeightsError, match="damaged"):
            find("bad")
    assert run("models") == 0
    listed = capsys.readouterr().out
    assert "bands" in listed
    assert "cannot be used" not in listed
    assert run("models", "--remove", "bad") == 0
    assert not (own / "bad").exists()


def test_a_copy_that_broke_off_can_be_added_again(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(own / "bands", source)
    weights = own / "bands" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:100])
    assert run("models") == 0
    assert "cannot be used" in capsys.readouterr().out
    assert run("models", "--add", str(source), "--accept-licence") == 0
    find_model("bands").check_weights()
    weights.unlink()
    assert run("models", "--add", str(source), "--accept-licence") == 0


def test_what_is_being_copied_is_not_listed(own: Path) -> None:
    shutil.copytree(own / "bands", own / ".hyperreg-model-x" / "bands")
    shutil.copytree(own / "bands", own / ".bands.tmp")
    assert [card.folder for card in list_models() if card.name == "bands"] == [own / "bands"]


def repacked(bundle: Path, path: Path, **changes: int) -> Path:
    """The bundle as a zip, two-byte fields of the last member changed in both of its headers."""
    zipped(bundle, path)
    offsets = {"flag_bits": (6, 8), "compress_type": (8, 10)}
    with zipfile.ZipFile(path) as archive:
        member = archive.infolist()[-1]
        directory = archive.start_dir
    content = bytearray(path.read_bytes())
    central = content.rindex(b"PK\x01\x02")
    assert central >= directory
    for name, value in changes.items():
        for start, offset in zip((member.header_offset, central), offsets[name], strict=True):
            content[start + offset : start + offset + 2] = value.to_bytes(2, "little")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"flag_bits": 1}, "encrypted"), ({"compress_type": 97}, "not known here"), ({"compress_type": 8}, "damaged")],
)
def test_zips_that_cannot_be_unpacked_are_explained(
    tmp_path: Path, changes: dict[str, int], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = repacked(write_bundle(tmp_path / "bundle"), tmp_path / "bundle.zip", **changes)
    with pytest.raises(HyperRegError, match=words):
        add_model(path, tmp_path / "models")
    assert run("models", "--add", str(path), "--accept-licence") in (ExitCode.FILE, ExitCode.WEIGHTS)
    assert "Traceback" not in capsys.readouterr().err


def test_a_zip_of_very_many_files_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(10_001):
            archive.writestr(f"m/{number}", "")
    with pytest.raises(WeightsError, match="10000 files"):
        add_model(tmp_path / "many.zip", tmp_path / "models")


@pytest.mark.parametrize(
    "inference",
    [
        changed(["network_def", "init_filters"], 1 << 20),
        changed(["network_def", "blocks_down"], [10**9, 1, 1, 1]),
        changed(["network_def", "out_channels"], 10**9),
        changed(["network_def", "in_channels"], 10**12),
        changed(["network_def", "init_filters"], "many"),
        changed(["network_def", "init_filters"], 1e300),
        changed(["network_def", "init_filters"], None),
        changed(["inferer", "roi_size"], [10**9, 10**9, 10**9]),
        changed(["inferer", "roi_size"], [None, {}, "x"]),
    ],
)
def test_absurd_bundles_are_refused_before_anything_is_built(tmp_path: Path, inference: dict[str, Any]) -> None:
    with pytest.raises(WeightsError):
        add_model(write_bundle(tmp_path / "bundle", inference), tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    "options",
    [{"filters": 1 << 24}, {"blocks_down": [1] * 40}, {"blocks_down": [10**9, 1]}, {"filters": -8}, {"dropout": "x"}],
)
def test_a_card_cannot_ask_for_more_than_its_weights_hold(tmp_path: Path, options: dict[str, Any]) -> None:
    card = make_card(tmp_path)
    entries = json.loads((card.folder / CARD).read_text(encoding="utf-8"))
    entries["network"]["options"].update(options)
    (card.folder / CARD).write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(WeightsError):
        load_model(read_card(card.folder))


@pytest.mark.parametrize(
    "changes",
    [{"hidden": [1 << 40]}, {"hidden": [1 << 14] * 1000}, {"rank": 1 << 40},
     {"options": {"channels": [1 << 30] * 6, "unet_out_channels": 4, "final_channels": [4]}}],
)  # fmt: skip
def test_nor_can_a_registration_model(tmp_path: Path, changes: dict[str, Any]) -> None:
    card = save_untrained(tmp_path)
    entries = json.loads((card.folder / CARD).read_text(encoding="utf-8"))
    entries["network"].update(changes)
    (card.folder / CARD).write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(WeightsError):
        load_registration(registration.read_card(card.folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    card = make_card(tmp_path / "made")
    network = load_model(card)
    with torch.no_grad():
        list(network.parameters())[0].view(-1)[5] = value  # noqa: RUF015
    save_weights(network, card.card, tmp_path / "bad", half=False)
    with pytest.raises(WeightsError, match="no weights"):
        load_model(read_card(tmp_path / "bad"))
    with pytest.raises(WeightsError, match="no weights"):
        add_model(tmp_path / "bad", tmp_path / "models")


def test_weights_that_are_views_of_nothing_are_refused(tmp_path: Path) -> None:
    state = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in make_network().state_dict().items()}
    with pytest.raises(WeightsError, match="less than it claims"):
        add_model(write_bundle(tmp_path / "bundle", state=state), tmp_path / "models")


def test_weights_that_unpack_to_much_more_are_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", state={"a": torch.zeros(1 << 20)})
    model = bundle / "models" / "model.pt"
    with zipfile.ZipFile(model) as stored, zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for member in stored.infolist():
            packed.writestr(member.filename, stored.read(member))
    shutil.move(tmp_path / "packed.pt", model)
    with pytest.raises(WeightsError, match="plain weights"):
        add_model(bundle, tmp_path / "models")


@pytest.mark.parametrize("metadata", [{"network_data_format": 7}, {"network_data_format": {"inputs": {"image": {}}}}])
def test_bundles_that_make_no_sense_are_refused(tmp_path: Path, metadata: dict[str, Any]) -> None:
    with pytest.raises(WeightsError):
        add_model(write_bundle(tmp_path / "bundle", INFERENCE, {**METADATA, **metadata}), tmp_path / "models")


def test_a_network_that_cannot_run_is_not_added(tmp_path: Path) -> None:
    """Strides change no weight, and are noticed only when the network is shown something."""
    from hyperreg.segmentation.model import save_untrained as save

    options = {"channels": [4, 8, 8], "strides": [2, 2], "num_res_units": 0}
    card = save(tmp_path, {**card_entries(), "network": {"name": "monai_unet", "options": options}})
    add_model(card.folder, tmp_path / "models")
    for strides in ([2, 1 << 12], [2, 0], [2, -2], [2]):
        entries = json.loads((card.folder / CARD).read_text(encoding="utf-8"))
        entries["name"] = "other"
        entries["network"]["options"]["strides"] = strides
        (card.folder / CARD).write_text(json.dumps(entries), encoding="utf-8")
        with pytest.raises(WeightsError):
            add_model(card.folder, tmp_path / "models")


def test_a_full_disk_leaves_no_half_model(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(own / "bands", tmp_path / "source")
    size = (tmp_path / "source" / WEIGHTS).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (size // 2, 10):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            code = run("models", "--add", str(tmp_path / "source"), "--accept-licence")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert code == ExitCode.FILE
        assert "Traceback" not in capsys.readouterr().err
        assert list(own.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be made"):
        add_model(make_card(tmp_path / "made").folder, tmp_path / "file" / "models")
