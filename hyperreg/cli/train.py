"""`hyperreg train`: make models. Not needed to use HyperReg."""

from __future__ import annotations

import logging
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from hyperreg.cli.console import guarded, output, progress_bar, warn
from hyperreg.errors import InputError
from hyperreg.overnight import telling

app = typer.Typer(
    help="Train models, on synthetic images or on your own. Not needed to use HyperReg.", no_args_is_help=True
)


@app.command(
    "registration",
    epilog="Examples: hyperreg train registration --images MY_BRAINS --minutes 480, and "
    "hyperreg train registration --config hyperreg/training/configs/brain.yaml --resume",
)
@guarded
def registration(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML: network, synthesis, steps, output folder.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="FOLDER", help="Adapt a model to the images there, of ten people or more."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the output folder.")
    ] = False,
    model: Annotated[
        str, typer.Option("--model", help="With --images: which model; 'any' for what is no brain.")
    ] = "brain",
    name: Annotated[
        str, typer.Option("--name", help="With --images: of the adapted model; MODEL-FOLDER if not given.")
    ] = "",
    minutes: Annotated[float, typer.Option("--minutes", help="With --images: how long to train.", min=0.01)] = 480,
    folder: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="With --images: for checkpoints; FOLDER/hyperreg if not given."),
    ] = None,
    state: Annotated[Path | None, typer.Option("--state", hidden=True)] = None,
) -> None:
    """Train a registration model on synthetic images (--config), or adapt one to your own (--images).

    Images stay on this machine. Some of them are held out: the adapted model is added to those that `hyperreg register`
    knows only if it registers these better than before. A run that was interrupted goes on with --resume. Metrics of
    every step are in log.jsonl in the output folder, live curves too: `tensorboard --logdir FOLDER`.
    """
    if (config is None) == (images is None):
        raise InputError("Give --config FILE to train, or --images FOLDER to adapt a model to your own images.")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if images is not None:
        name = name or re.sub(r"[^A-Za-z0-9._-]+", "-", f"{model}-{images.resolve().name}")
        _adapt(images, model, name, minutes, folder, resume, state)
    elif config is not None:
        from hyperreg.training.registration import train

        output.print(f"The model is in {train(config, resume=resume)}.", markup=False)


def _adapt(
    images: Path, model: str, name: str, minutes: float, folder: Path | None, resume: bool, state: Path | None
) -> None:
    """state: of a training that a window has started (see `hyperreg.overnight`), which resumes by itself."""
    with nullcontext() if state is None else telling(state, images) as tell:
        from hyperreg.training.own_images import adapt, find_images
        from hyperreg.training.starter import in_time

        count = len(find_images(images))
        output.print(f"{count} images: they are aligned first, then come {in_time(60 * minutes)} of training.")
        with progress_bar() as progress:

            def told(fraction: float, text: str) -> None:
                progress(fraction, text)
                if tell is not None:
                    tell(fraction, text)

            found = adapt(images, model, name, minutes, folder, "if begun" if state else resume, progress=told)
        if tell is not None:
            tell(1.0, found.in_words)
    output.print("Held-out pairs, before -> after:")
    for old, new in zip(found.before, found.after, strict=True):
        output.print(
            f"λ {old['lambda']:g}: similarity {old['similarity']:.4f} -> {new['similarity']:.4f}, folded "
            f"{old['folding_percent']:.4f} -> {new['folding_percent']:.4f} %, roughness {old['smoothness']:.4f} -> "
            f"{new['smoothness']:.4f}",
            markup=False,
        )
    if found.card is None:
        output.print("Nothing was gained: the model is not taken over.")
    else:
        output.print(
            f"Added: hyperreg register FIXED MOVING --model {found.card.name} (hyperreg models lists it).", markup=False
        )


@app.command(
    "segmentation",
    epilog="Example: hyperreg train segmentation --init MY_FOLDER --name my-model --licence CC-BY-4.0, and then "
    "hyperreg train segmentation --config MY_FOLDER/hyperreg/training.yaml --add",
)
@guarded
def segmentation(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML: network, structures, cases, steps, output.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the output folder.")
    ] = False,
    add: Annotated[
        bool, typer.Option("--add", help="Add the finished model to those that `hyperreg segment` knows.")
    ] = False,
    init: Annotated[
        Path | None,
        typer.Option("--init", metavar="FOLDER", help="Write a first configuration for images and label maps there."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="With --init: the model's name; the folder's if not given.")] = "",
    licence: Annotated[
        str, typer.Option("--licence", help="With --init: under which others may use the model, such as CC-BY-4.0.")
    ] = "",
    folder: Annotated[
        Path | None, typer.Option("--output", "-o", help="With --init: where to write; FOLDER/hyperreg if not given.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", help="With --init: steps of training.", min=1)] = 2000,
) -> None:
    """Train a segmentation model, on images made from label maps or on one's own; --resume goes on with a run.

    The output folder is a model: --add (or `hyperreg models --add FOLDER`) makes it known to `hyperreg segment`.
    """
    if (config is None) == (init is None):
        raise InputError("Give --config FILE to train, or --init FOLDER to write a first configuration.")
    if init is not None:
        _init(init, name or init.resolve().name, licence, folder, steps)
    elif config is not None:
        _train(config, resume, add)


def _init(source: Path, name: str, licence: str, folder: Path | None, steps: int) -> None:
    from hyperreg.training import starter
    from hyperreg.training.segmentation_config import read_segmentation_config

    path, notes = starter.init(source, name, licence, folder, steps)
    warn(notes)
    config = read_segmentation_config(path)
    seconds = starter.seconds_per_step(config) * config.steps
    output.print(
        f"Wrote {path}: {len(config.structures)} structures, voxels of "
        f"{' x '.join(f'{size:g}' for size in config.grid['spacing_mm'])} mm. Read it; {config.steps} steps take about "
        f"{starter.in_time(seconds)} here. Then:\nhyperreg train segmentation --config {path} --add",
        markup=False,
        soft_wrap=True,
    )


def _train(config: Path, resume: bool, add: bool) -> None:
    from hyperreg.catalogue import own_models
    from hyperreg.segmentation import licences
    from hyperreg.segmentation.bundles import add_model
    from hyperreg.segmentation.catalogue import list_models
    from hyperreg.training.segmentation import train
    from hyperreg.training.segmentation_config import read_segmentation_config

    if add and (name := read_segmentation_config(config).name) in {card.name for card in list_models()}:
        # Said before hours of training, not after them.
        raise InputError(
            f"There is a model '{name}' already: remove it (hyperreg models --remove), or name yours anew."
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    with progress_bar() as progress:
        made = train(config, resume, progress)
    output.print(f"The model is in {made}.", markup=False, soft_wrap=True)
    if add:
        card = add_model(made, own_models())
        licences.accept(card)
        output.print(f"Added: hyperreg segment IMAGE --model {card.name}", markup=False)


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


@app.command("calibrate", epilog="Example: hyperreg train calibrate --config my-model.yaml MODEL_FOLDER")
@guarded
def calibrate(
    model: Annotated[Path, typer.Argument(help="Folder of the model whose card is changed.")],
    config: Annotated[Path, typer.Option("--config", "-c", help="YAML that the model was trained with.")],
) -> None:
    """Write into a model's card how much less sure it should be, from the training's held-out cases.

    Training does it at its end; this is for models that are there already. No label changes by it.
    """
    from hyperreg.training.calibration import calibrate

    temperature = calibrate(config, model)
    output.print(f"The card in {model} has the temperature {temperature:g}.", markup=False)


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
