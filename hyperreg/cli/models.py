"""`hyperreg models`: the models that can be used."""

from __future__ import annotations

from hyperreg.catalogue import Card, model_folders
from hyperreg.cli.console import guarded, output
from hyperreg.registration import catalogue as registration
from hyperreg.segmentation import catalogue as segmentation


@guarded
def command() -> None:
    """List the models: what each is for, what it wants and gives, its version, licence and folder.

    Models are looked for in the folder that the environment variable HYPERREG_MODELS names, beside the program, and
    inside it.
    """
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
            _print(other, f"inputs ({other.modality}): {inputs}", f"structures: {_names(other)}")


def _print(card: Card, *details: str, is_default: bool = False) -> None:
    lines = (
        f"{card.name}{' (default)' if is_default else ''}: {card.title}. {card.description}",
        f"version {card.version}, licence {card.licence}",
        *details,
        str(card.folder),
    )
    output.print("\n    ".join(lines), markup=False)


def _names(card: segmentation.SegmentationCard) -> str:
    return ", ".join(structure.name for structure in card.structures)
