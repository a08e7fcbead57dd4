"""`hyperreg train`: make models. Not needed to use HyperReg."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from hyperreg.cli.console import guarded, output

app = typer.Typer(help="Train models on synthetic images. Not needed to use HyperReg.", no_args_is_help=True)


@app.command(
    "registration",
    epilog="Example: hyperreg train registration --config hyperreg/training/configs/brain.yaml --resume",
)
@guarded
def registration(
    config: Annotated[Path, typer.Option("--config", "-c", help="YAML: network, synthesis, steps, output folder.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the output folder.")
    ] = False,
) -> None:
    """Train a registration model; a run that was interrupted goes on with --resume.

    Figures of every step are in log.jsonl in the output folder, live curves too: `tensorboard --logdir FOLDER`.
    """
    from hyperreg.training.registration import train

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folder = train(config, resume=resume)
    output.print(f"The model is in {folder}.", markup=False)


@app.command(
    "segmentation",
    epilog="Example: hyperreg train segmentation --config my-model.yaml --resume",
)
@guarded
def segmentation(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="YAML: network, structures, synthesis, steps, output.")
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the output folder.")
    ] = False,
) -> None:
    """Train a segmentation model on images made from label maps; an interrupted run goes on with --resume.

    The output folder is a model: put it into the folder that HYPERREG_MODELS names, and `hyperreg segment` runs it.
    """
    from hyperreg.training.segmentation import train

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folder = train(config, resume=resume)
    output.print(f"The model is in {folder}.", markup=False)


@app.command(
    "expectations",
    epilog="Example: hyperreg train expectations --config my-model.yaml MODEL_FOLDER people/*.nii.gz",
)
@guarded
def expectations(
    model: Annotated[Path, typer.Argument(help="Folder of the model whose card is changed.")],
    label_maps: Annotated[list[Path], typer.Argument(help="Label maps of people, as the training's own.")],
    config: Annotated[Path, typer.Option("--config", "-c", help="YAML that the model was trained with.")],
) -> None:
    """Write into a model's card how large its structures are in people and where they lie.

    Training writes it from the people that it learns from; this is for more of them. `hyperreg segment` warns of
    results that are not like them.
    """
    from hyperreg.training.expectations import expect

    expect(config, model, label_maps)
    output.print(f"The card in {model} has what {len(label_maps)} label maps tell.", markup=False)


@app.command(
    "consensus",
    epilog="Example: hyperreg fuse --targets HEADS --atlases ATLASES --out RESULTS && hyperreg train consensus RESULTS "
    "--output runs/my-model",
)
@guarded
def consensus(
    results: Annotated[Path, typer.Argument(help="Folder that `hyperreg fuse --targets ... --out` has filled.")],
    folder: Annotated[Path, typer.Option("--output", "-o", help="Folder of the model; its name is the model's.")],
    spacing: Annotated[float, typer.Option(help="Voxel size that the network sees, mm.", min=0.1)] = 1.0,
    window: Annotated[int, typer.Option(help="Side of what it sees at once, voxels; a multiple of 8.", min=8)] = 96,
    steps: Annotated[int, typer.Option(help="Steps of training.", min=1)] = 2000,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train a segmentation model on fused label maps. It repeats what these have wrong.

    The output folder is a model: `hyperreg models --add FOLDER`, and `hyperreg segment` runs it.
    """
    from hyperreg.training.consensus import ConsensusTraining, train_on_consensus

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    settings = ConsensusTraining(folder.resolve().name, spacing, window, steps=steps, device=device)
    output.print(f"The model is in {train_on_consensus(results, folder, settings, resume)}.", markup=False)
