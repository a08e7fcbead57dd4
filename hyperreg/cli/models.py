"""`hyperreg models`: the models that can be used."""

from __future__ import annotations

from rich.table import Table

from hyperreg.cli.console import guarded, output
from hyperreg.registration.catalogue import default_model, list_models, model_folders


@guarded
def command() -> None:
    """List the registration models, with the folder that each lies in."""
    cards = list_models()
    if not cards:
        places = ", ".join(str(folder) for folder in model_folders())
        output.print(f"No models found (looked in {places}).", markup=False)
        return
    table = Table("name", "version", "sliders", "licence", "description", "folder")
    for card in cards:
        sliders = ", ".join(hyperparameter.name for hyperparameter in card.hyperparameters)
        name = f"{card.name} (default)" if card.name == default_model() else card.name
        table.add_row(name, card.version, sliders, card.licence, f"{card.title}. {card.description}", str(card.folder))
    output.print(table)
