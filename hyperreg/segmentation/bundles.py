"""Models that users already have: MONAI bundles, Auto3DSeg's, HyperReg's own exports, as a folder or a zip file.

Nothing in them is run. Configurations are read as JSON, never evaluated: what this module needs of them must be plain
values, from lists of what is known. Weights are read with torch's `weights_only`, and written anew as safetensors.
Format: https://docs.monai.io/en/stable/mb_specification.html
"""

from __future__ import annotations

import json
import lzma
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from hyperreg.catalogue import CARD, MALFORMED, WEIGHTS, read_json
from hyperreg.errors import FileError, InputError, WeightsError
from hyperreg.imaging.output import make_folder
from hyperreg.nets.weights import described_network
from hyperreg.scratch import ScratchFolder
from hyperreg.segmentation import auto3dseg
from hyperreg.segmentation.bundle_cards import bundle_card
from hyperreg.segmentation.catalogue import SegmentationCard, list_models, read_card
from hyperreg.segmentation.licences import LICENCE, written_licence
from hyperreg.segmentation.model import load_model, make_network, save_model, try_network

METADATA, INFERENCE, STATE = "configs/metadata.json", "configs/inference.json", "models/model.pt"
# What the models of an ensemble have to have in common.
SAME_IN_ENSEMBLES = (
    "modality", "inputs", "structures", "output", "network", "hyperparameters", "grid", "intensities", "postprocessing",
)  # fmt: skip
# A zip that unpacks to more than this, or to more files, is no model.
LARGEST_BYTES = 4 << 30
MOST_FILES = 10_000
# Weights are stored as they are, but for names and alignment, or tensors that two layers share.
LARGEST_GROWTH = 4
ENCRYPTED = 0x1
SCRATCH = "hyperreg-model-"


@contextmanager
def _explained(source: Path) -> Iterator[Path]:
    """A folder for the steps on the way. Errors of disks and of descriptions that make no sense become HyperReg's."""
    try:
        with ScratchFolder(SCRATCH) as scratch:
            yield scratch
    except MALFORMED as error:
        raise WeightsError(
            f"'{source.name}' describes no model that HyperReg understands ({str(error)[:300] or repr(error)})."
        ) from error
    except OSError as error:
        raise FileError(f"'{source}' cannot be read, or copied: {error.strerror or error}.") from error


def add_model(source: Path, place: Path) -> SegmentationCard:
    """Copy (HyperReg's own) or convert (a bundle of MONAI's, a model of Auto3DSeg's) a model into `place / its name`.

    source: a folder or a .zip. Raises FileError if it cannot be read, WeightsError for a model that cannot be used or
    holds code, InputError if a model of that name is there already, HyperReg's own included.
    """
    with _explained(source) as scratch:
        folder = _root(source, scratch)
        made = scratch / "made"
        card = _copied(folder, made) if (folder / CARD).is_file() else _converted(folder, made, _name(source))
        for path in card.weight_files:
            try_network(load_model(card, path=path).to("meta"), card)
        return _placed(made, card.name, place)


def join_models(cards: Sequence[SegmentationCard], name: str, place: Path) -> SegmentationCard:
    """One model, `place / name`, of several that differ in their weights only: an ensemble. The first is used alone.

    Raises InputError for models that cannot be joined or a name that is taken, WeightsError, FileError.
    """
    _check_name(name)
    if len(cards) < 2:
        raise InputError("An ensemble needs two models or more; name them.")
    for card in cards:
        card.check_weights()
        other = next((part for part in SAME_IN_ENSEMBLES if card.card.get(part) != cards[0].card.get(part)), None)
        if other is not None:
            raise InputError(f"'{cards[0].name}' and '{card.name}' differ in their {other}: they cannot be joined.")
    with _explained(cards[0].folder) as made:
        entries = {**cards[0].card, "name": name, "ensemble": {}}
        for number, (path, sha256) in enumerate((item for card in cards for item in card.weight_files.items()), 1):
            file = WEIGHTS if number == 1 else f"weights-{number}.safetensors"
            shutil.copyfile(path, made / file)
            if number > 1:
                entries["ensemble"][file] = sha256
        if (cards[0].folder / LICENCE).is_file():
            shutil.copyfile(cards[0].folder / LICENCE, made / LICENCE)
        (made / CARD).write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return _placed(made, name, place)


def _placed(made: Path, name: str, place: Path) -> SegmentationCard:
    """A finished model's folder, copied to where models of the user's are."""
    target = place / name
    if (target / CARD).exists() and not _is_intact(target):
        remove_folder(target)  # a copy that broke off, say
    there = {other.name: other.folder for other in list_models()}
    if target.exists() or name in there:
        raise InputError(
            f"There is a model '{name}' already ({there.get(name, target)}). Remove it first, if it was added and "
            "is to be replaced."
        )
    make_folder(place)
    # Under a hidden name first: a copy that breaks off must not look like a model.
    hidden = ScratchFolder(f".{SCRATCH}", place)
    try:
        copy = hidden.path / name
        shutil.copytree(made, copy)
        copy.rename(target)
    except OSError as error:
        raise FileError(f"The model cannot be written to '{target}': {_reason(error)}.") from error
    finally:
        hidden.close()
    return read_card(target)


def licence_text(source: Path) -> str:
    """The licence that comes with a model, to be shown before it is added; "" if none does. Raises as `add_model`."""
    with _explained(source) as scratch:
        return written_licence(_root(source, scratch))


def remove_model(card: SegmentationCard, place: Path) -> None:
    """Delete a model that was added to `place`. Raises InputError for one that lies elsewhere, FileError."""
    if card.folder.resolve().parent != place.resolve():
        raise InputError(f"The model '{card.name}' was not added here; it belongs to '{card.folder}'.")
    remove_folder(card.folder)


def remove_folder(folder: Path) -> None:
    """Delete a model's folder, by way of a hidden name: what is half deleted must not look like a model."""
    try:
        with ScratchFolder(f".{SCRATCH}", folder.parent) as hidden:
            folder.rename(hidden / folder.name)
    except OSError as error:
        raise FileError(f"'{folder}' cannot be removed: {error.strerror or error}.") from error


def _is_intact(folder: Path) -> bool:
    try:
        read_card(folder).check_weights()
    except WeightsError:
        return False
    return True


def _copied(folder: Path, made: Path) -> SegmentationCard:
    """HyperReg's own: the files that make a model, and nothing else that lies beside them."""
    given = read_card(folder)
    given.check_weights()
    made.mkdir()
    for name in (CARD, WEIGHTS, *given.ensemble, "README.md", LICENCE):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, made / name)
    card = read_card(made)
    _check_name(card.name)
    return card


def _converted(folder: Path, made: Path, fallback: str) -> SegmentationCard:
    licence = " ".join(written_licence(folder).partition("\n\n")[0].split())
    if (folder / METADATA).is_file():
        entries = bundle_card(_json(folder / METADATA), _json(folder / INFERENCE), fallback, licence)
        state = _state(_checkpoint(folder / STATE), STATE)
    else:
        checkpoint = _checkpoint(folder / auto3dseg.STATE)
        entries = auto3dseg.card_of(checkpoint, folder / auto3dseg.LABELS, fallback, licence)
        state = _state(checkpoint, auto3dseg.STATE)
    _check_name(entries["name"])
    output = entries["output"]

    def make() -> torch.nn.Module:
        exclusive = output["activation"] == "softmax"
        return make_network(entries["network"], len(entries["inputs"]), output["channels"], exclusive)

    try:
        described_network(make, {name: tuple(tensor.shape) for name, tensor in state.items()})
    except WeightsError as error:
        raise WeightsError(f"The model's weights are not those of its network. ({error})") from error
    network = make()
    network.load_state_dict(state, strict=True)
    card = save_model(network, entries, made, half=False)
    if (folder / LICENCE).is_file():
        shutil.copyfile(folder / LICENCE, made / LICENCE)
    return card


def _checkpoint(path: Path) -> Any:
    """What a checkpoint holds: tensors, numbers, texts, and lists and dictionaries of them. Raises WeightsError."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > LARGEST_GROWTH * path.stat().st_size:
                    raise ValueError("it is compressed, which torch's files are not")
                if archive.testzip() is not None:  # torch does not look at the checksums
                    raise ValueError("its checksums do not fit")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(
            f"The model has no '{path.name}' (TorchScript files are not taken: they hold code)."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged or hostile file leads the unpickler to
        raise WeightsError(
            f"'{path.name}' does not hold plain weights: it is damaged, or holds code, which HyperReg never runs."
        ) from error


def _state(state: Any, file: str) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint; raises WeightsError if there are none."""
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"'{file}' holds something else than the weights of one network.")
    # Tensors may be views: of a few numbers, or all of the same ones, as much as one likes.
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in state.values()}
    if sum(tensor.nbytes for tensor in state.values()) > LARGEST_GROWTH * sum(held.values()):
        raise WeightsError(f"'{file}' holds less than it claims to.")
    return dict(state)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except OSError as error:
        raise WeightsError(
            f"The bundle has no '{path.parent.name}/{path.name}'. Bundles configured in YAML are not taken; convert "
            "the file to JSON."
        ) from error
    except ValueError as error:
        raise WeightsError(f"'{path.name}' of the bundle is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise WeightsError(f"'{path.name}' of the bundle is not a JSON object.")
    return content


def _name(source: Path) -> str:
    return source.name[: -len(source.suffix)] if source.is_file() else source.resolve().name


def _is_name(name: str) -> bool:
    """Whether a model's name can become a folder's."""
    return 0 < len(name) <= 100 and not name.startswith(".") and all(c.isalnum() or c in "-_." for c in name)


def _check_name(name: str) -> None:
    if not _is_name(name):
        raise WeightsError(f"The model is called '{name}', which cannot be the name of a folder.")


def _root(source: Path, scratch: Path) -> Path:
    """The folder that is the model: the given one or what a zip holds, or the only one in it. Raises as `add_model`."""
    if not source.exists():
        raise FileError(f"'{source}' does not exist. Give the folder or the .zip file of a model.")
    folder = _unpacked(source, scratch) if source.is_file() else source
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))]
    for candidate in (folder, *inside):
        if any((candidate / file).is_file() for file in (CARD, METADATA, auto3dseg.LABELS)):
            return candidate
    raise WeightsError(
        f"'{source}' is no model: it has no '{CARD}', no '{METADATA}' as a MONAI bundle has, and no "
        f"'{auto3dseg.LABELS}' as models of Auto3DSeg have."
    )


def _unpacked(source: Path, scratch: Path) -> Path:
    """A zip's files in a folder of their own. Raises WeightsError for one that would write elsewhere."""
    target = scratch / "unpacked"
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
            for member in members:
                _check_member(member, source)
            if len(members) > MOST_FILES or sum(member.file_size for member in members) > LARGEST_BYTES:
                raise WeightsError(
                    f"'{source.name}' unpacks to more than {LARGEST_BYTES >> 30} GB or {MOST_FILES} files; "
                    "that is no model."
                )
            archive.extractall(target)
    except NotImplementedError as error:
        raise FileError(
            f"'{source.name}' is compressed in a way that is not known here ({error}). Pack it as an ordinary .zip."
        ) from error
    except (zipfile.BadZipFile, RuntimeError, zlib.error, lzma.LZMAError, EOFError, *MALFORMED) as error:
        raise FileError(
            f"'{source}' is not a zip file, or it is damaged. Give a model's folder or .zip file."
        ) from error
    except OSError as error:
        raise FileError(f"'{source}' cannot be unpacked: {error.strerror or error}.") from error
    return target


def _reason(error: OSError) -> str:
    """Why a folder could not be copied; shutil lists what went wrong with each file."""
    if isinstance(error, shutil.Error) and error.args and error.args[0]:
        return str(error.args[0][0][-1])
    return str(error.strerror or error)


def _check_member(member: zipfile.ZipInfo, source: Path) -> None:
    posix, windows = PurePosixPath(member.filename), PureWindowsPath(member.filename)
    outside = posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in (*posix.parts, *windows.parts)
    if outside or stat.S_ISLNK(member.external_attr >> 16):
        raise WeightsError(
            f"'{source.name}' holds '{member.filename}', which would be written outside of the model's folder. The "
            "file is damaged or malicious; nothing of it was used."
        )
    if member.flag_bits & ENCRYPTED:
        raise WeightsError(f"'{source.name}' is encrypted. Unpack it with its password, and give the folder.")
