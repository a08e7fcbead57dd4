"""`hyperreg models`: the models that can be used."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from hyperreg.catalogue import Card, card_folders, model_folders, own_models, says
from hyperreg.cli import options
from hyperreg.cli.console import guarded, output
from hyperreg.errors import Cancelled, WeightsError
from hyperreg.registration import catalogue as registration
from hyperreg.segmentation import catalogue as segmentation

EXAMPLES = """Examples:

hyperreg models

hyperreg models hippocampus --modality MR

hyperreg models --add brats_mri_segmentation.zip

hyperreg models --remove brats_mri_segmentation

hyperreg models fold1 fold2 fold3 --join folds"""


@guarded
def command(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]...", help="Only models with all these words in their name, text or structures."),
    ] = None,
    modality: Annotated[
        str, typer.Option("--modality", metavar="MR|CT", help="Only segmentation models for such images.")
    ] = "",
    structure: Annotated[
        str, typer.Option("--structure", metavar="WORDS", help="Only segmentation models that find this structure.")
    ] = "",
    add: Annotated[
        Path | None,
        typer.Option(
            "--add", metavar="FOLDER|ZIP", help="Add a segmentation model: a MONAI bundle, or HyperReg's own."
        ),
    ] = None,
    remove: Annotated[
        str | None, typer.Option("--remove", metavar="NAME", help="Remove a model that was added.")
    ] = None,
    join: Annotated[
        str | None,
        typer.Option("--join", metavar="NAME", help="Join the models that the words name to an ensemble."),
    ] = None,
    accept_licence: options.AcceptLicence = False,
) -> None:
    """List the models: what each is for, what it wants and gives, its version, licence and folder.

    Models are looked for in the folder that the environment variable HYPERREG_MODELS names (or a folder of yours, to
    which --add adds), beside the program, and inside it. Models that are added are read as data; no code in them runs.
    """
    if add is not None:
        _add(add, accept_licence)
    elif remove is not None:
        _remove(remove)
    elif join is not None:
        _join(words or [], join)
    else:
        _list(" ".join(words or ()), modality, structure)


def _add(source: Path, accepted: bool) -> None:
    from hyperreg.segmentation import licences
    from hyperreg.segmentation.bundles import add_model, licence_text

    licence = licence_text(source)
    if not accepted:
        confirm_licence(licence or licences.NO_LICENCE, "nothing was added")
    card = add_model(source, own_models())
    licences.accept(card)
    output.print(f"Added '{card.name}' ({card.folder}).", markup=False)


def confirm_licence(text: str, otherwise: str) -> None:
    """Show a licence and ask. Raises Cancelled, saying `otherwise`, unless the answer is yes."""
    output.print(text, markup=False)
    if not typer.confirm("Do you accept this licence?"):
        raise Cancelled(f"The licence was not accepted; {otherwise}.")


def _remove(name: str) -> None:
    from hyperreg.segmentation import licences
    from hyperreg.segmentation.bundles import remove_folder, remove_model

    damaged = [folder for folder in card_folders() if folder == own_models() / name and not _is_readable(folder)]
    for folder in damaged:
        remove_folder(folder)
        output.print(f"Removed '{name}', which was damaged ({folder}).", markup=False)
    if damaged:
        return
    card = segmentation.find_model(name)
    remove_model(card, own_models())
    licences.forget(card)
    output.print(f"Removed '{name}' ({card.folder}).", markup=False)


def _is_readable(folder: Path) -> bool:
    for read in (registration.read_card, segmentation.read_card):
        with suppress(WeightsError):
            read(folder)
            return True
    return False


def _join(names: list[str], name: str) -> None:
    from hyperreg.segmentation import licences
    from hyperreg.segmentation.bundles import join_models

    cards = [segmentation.find_model(word) for word in names]
    card = join_models(cards, name, own_models())
    if all(licences.is_accepted(part) for part in cards):
        licences.accept(card)
    output.print(f"Made '{card.name}' of {len(card.weight_files)} sets of weights ({card.folder}).", markup=False)


def _list(words: str, modality: str, structure: str) -> None:
    # What a registration model is for, only its words tell.
    registered = [] if modality or structure else registration.list_models()
    segmented = segmentation.list_models()
    cards = [card for card in registered if says(words, *card.texts)]
    others = segmentation.search(segmented, words, modality, structure)
    if not cards and not others:
        places = ", ".join(str(folder) for folder in model_folders())
        none = "No models found" if not registered and not segmented else "No model fits"
        output.print(f"{none} (looked in {places}).", markup=False)
        return
    if cards:
        output.print("Registration (hyperreg register, sweep, view):")
        default = registration.default_model()
        for card in cards:
            sliders = ", ".join(f"{h.name} (starts at {h.default:g})" for h in card.hyperparameters)
            _print(card, f"sliders: {sliders}", is_default=card.name == default)
    if others:
        output.print("Segmentation (hyperreg segment):")
        for other in others:
            _print(other, *_details(other))


def _details(card: segmentation.SegmentationCard) -> list[str]:
    inputs = ", ".join(entry.name for entry in card.inputs)
    sizes = " x ".join("any" if size is None else f"{size:g}" for size in card.spacing_mm)
    lines = [
        f"inputs ({card.modality}): {inputs}",
        f"structures: {', '.join(structure.name for structure in card.structures)}",
        f"voxels: {sizes} mm",
    ]
    seconds = [f"{value:g} s on {'a GPU' if device == 'cuda' else 'a CPU'}" for device, value in card.seconds.items()]
    memory = [] if card.memory_gb is None else [f"{card.memory_gb:g} GB of memory"]
    if seconds or memory:
        lines.append(f"needs about {', '.join(seconds + memory)}")
    if card.measured:
        lines.append(f"measured: {card.measured}")
    if card.ensemble:
        lines.append(f"an ensemble of {len(card.weight_files)} (segment --ensemble)")
    if card.hyperparameters:
        sliders = ", ".join(f"{h.name}={h.default:g}" for h in card.hyperparameters)
        lines.append(f"hyperparameters: {sliders} (segment --hyper)")
    return lines + ([f"cite: {card.citation}"] if card.citation else [])


def _print(card: Card, *details: str, is_default: bool = False) -> None:
    lines = [
        f"{card.name}{' (default)' if is_default else ''}: {card.title}. {card.description}",
        f"version {card.version}, licence {card.licence}",
        *details,
        str(card.folder),
    ]
    try:
        card.check_weights()
    except WeightsError as error:
        lines.append(f"cannot be used: {error}")
    output.print("\n    ".join(lines), markup=False)
