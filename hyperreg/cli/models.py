"""`hyperreg models`: the models that can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperreg.catalogue import Card, model_folders, own_models
from hyperreg.cli.console import guarded, output
from hyperreg.errors import Cancelled
from hyperreg.registration import catalogue as registration
from hyperreg.segmentation import catalogue as segmentation

EXAMPLES = """Examples:

hyperreg models

hyperreg models --add brats_mri_segmentation.zip

hyperreg models --remove brats_mri_segmentation"""


@guarded
def command(
    add: Annotated[
        Path | None,
        typer.Option(
            "--add", metavar="FOLDER|ZIP", help="Add a segmentation model: a MONAI bundle, or HyperReg's own."
        ),
    ] = None,
    remove: Annotated[
        str | None, typer.Option("--remove", metavar="NAME", help="Remove a model that was added.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Accept the licence of the model, without being asked.")
    ] = False,
) -> None:
    """List the models: what each is for, what it wants and gives, its version, licence and folder.

    Models are looked for in the folder that the environment variable HYPERREG_MODELS names (or a folder of yours, to
    which --add adds), beside the program, and inside it. Models that are added are read as data; no code in them runs.
    """
    if add is not None:
        _add(add, yes)
    elif remove is not None:
        _remove(remove)
    else:
        _list()


def _add(source: Path, accepted: bool) -> None:
    from hyperreg.segmentation.bundles import add_model, licence_text

    licence = licence_text(source)
    if not accepted:
        output.print(licence or "No licence comes with this model: ask whoever made it what you may do.", markup=False)
        if not typer.confirm("Do you accept this licence?"):
            raise Cancelled("The licence was not accepted; nothing was added.")
    card = add_model(source, own_models())
    output.print(f"Added '{card.name}' ({card.folder}).", markup=False)


def _remove(name: str) -> None:
    from hyperreg.segmentation.bundles import remove_model

    card = segmentation.find_model(name)
    remove_model(card, own_models())
    output.print(f"Removed '{name}' ({card.folder}).", markup=False)


def _list() -> None:
    cards = registration.list_models()
    others = segmentation.list_models()
    if not cards and not others:
        places = ", ".join(str(folder) for folder in model_folders())
        output.print(f"No models found (looked in {places}).", markup=False)
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
            inputs = ", ".join(entry.name for entry in other.inputs)
            _print(other, f"inputs ({other.modality}): {inputs}", f"structures: {_names(other)}", *_costs(other))


def _print(card: Card, *details: str, is_default: bool = False) -> None:
    lines = (
        f"{card.name}{' (default)' if is_default else ''}: {card.title}. {card.description}",
        f"version {card.version}, licence {card.licence}",
        *details,
        str(card.folder),
    )
    output.print("\n    ".join(lines), markup=False)


def _costs(card: segmentation.SegmentationCard) -> list[str]:
    """What was measured of its needs, as one line or none."""
    seconds = [f"{value:g} s on {'a GPU' if device == 'cuda' else 'a CPU'}" for device, value in card.seconds.items()]
    memory = [] if card.memory_gb is None else [f"{card.memory_gb:g} GB of memory"]
    return [f"needs about {', '.join(seconds + memory)}"] if seconds or memory else []


def _names(card: segmentation.SegmentationCard) -> str:
    return ", ".join(structure.name for structure in card.structures)
