"""`hyperreg models`: the models that can be used."""

from __future__ import annotations

from hyperreg.cli.console import guarded, output
from hyperreg.registration.catalogue import default_model, list_models, model_folders


@guarded
def command() -> None:
    """List the registration models: what each is for, its version, licence, sliders and folder.

    Models are looked for in the folder that the environment variable HYPERREG_MODELS names, beside the program, and
    inside it.
    """
    cards = list_models()
    if not cards:
        places = ", ".join(str(folder) for folder in model_folders())
        output.print(f"No models found (looked in {places}).", markup=False)
        return
    default = default_model()
    for card in cards:
        sliders = ", ".join(f"{h.name} (starts at {h.default:g})" for h in card.hyperparameters)
        lines = (
            f"{card.name}{' (default)' if card.name == default else ''}: {card.title}. {card.description}",
            f"    version {card.version}, licence {card.licence}, sliders: {sliders}",
            f"    {card.folder}",
        )
        output.print("\n".join(lines), markup=False)
