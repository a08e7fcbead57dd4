"""The panel of segmentation: model, images, result. Nothing here decides anything."""

from __future__ import annotations

from collections.abc import Callable

from trame.widgets import html
from trame.widgets import vuetify3 as v

from hyperreg.mrml.segmentation import texts
from hyperreg.segmentation.border import RESULT, SUREST, WIDEST
from hyperreg.view.parts import (
    ACCEPTED_MODELS,
    keep_or_undo,
    not_this_image,
    opacity,
    path_field,
    run_bar,
    section,
    sections,
    structures,
    tour,
    upload_button,
)
from hyperreg.view.segmentation import SegmentationControls
from hyperreg.view.segmentation_models import ModelControls

BUSY = "segment_phase !== 'idle'"


def fill(controls: SegmentationControls, models: ModelControls) -> None:
    """The content of the panel."""
    _model()
    _added_model(models)
    _images(controls)
    _which_is_which(controls)
    _sliders(controls)
    _licence(controls)
    _result(controls)
    with sections("segment_sections"):
        _more(models)


def bar(controls: SegmentationControls) -> None:
    """What is going on, and the main action; a question, which has to be in sight when it is asked."""
    with v.VAlert(
        v_if="segment_question", variant="tonal", density="compact", classes="mb-2 hyperreg-segment-question"
    ):
        html.Div("{{ segment_question }}", classes="text-body-2")
        with html.Div(classes="d-flex mt-2"):
            v.VBtn(
                "{{ segment_yes }}",
                size="small",
                color="primary",
                click=(controls.answer, "[true]"),
                classes="mr-2 hyperreg-segment-yes",
            )
            v.VBtn(
                "Keep it",
                size="small",
                variant="text",
                click=(controls.answer, "[false]"),
                classes="hyperreg-segment-keep",
            )
    run_bar(
        "segment",
        "Segment",
        "segment_missing !== '' || uploading !== '' || segment_licence !== ''",
        "segment_missing",
        controls.segment,
        controls.cancel,
    )


def _model() -> None:
    with html.Div(classes="d-flex hyperreg-search"):
        v.VTextField(
            v_model=("segment_words",),
            label="Search",
            prepend_inner_icon="mdi-magnify",
            density="compact",
            hide_details=True,
            clearable=True,
            disabled=(BUSY,),
            classes="mr-2 hyperreg-segment-words",
            title="Words of a model's name, description, images or structures",
        )
        v.VSelect(
            v_model=("segment_modality",),
            items=("segment_modalities",),
            density="compact",
            hide_details=True,
            disabled=(BUSY,),
            style="max-width: 150px",
            aria_label="Modality",
        )
    v.VSelect(
        v_model=("segment_model",),
        items=("segment_models",),
        label="Model",
        no_data_text="No model fits",
        density="compact",
        hide_details=True,
        disabled=(BUSY,),
        classes="mt-3 hyperreg-segment-model",
    )
    html.Div(
        "{{ segment_about }}",
        v_if="segment_about",
        title=("segment_about + '\\n' + segment_structures",),
        # Beside a result there is no room for all of it.
        classes=(
            "`text-caption text-medium-emphasis mt-1 ${segment_rows.length ? 'hyperreg-brief' : 'hyperreg-lines'}`",
        ),
    )


def _images(controls: SegmentationControls) -> None:
    with html.Div(v_for="entry in segment_inputs", key="entry.role", classes="d-flex align-center mt-3"):
        v.VSelect(
            model_value=("entry.volume || null",),
            update_modelValue=(controls.choose, "[entry.name, $event]"),
            items=("segment_volumes",),
            label=("entry.title",),
            hint=("entry.info",),
            persistent_hint=True,
            no_data_text="No image is open",
            density="compact",
            disabled=(BUSY,),
            classes=("`hyperreg-segment-${entry.role}`",),
        )
        upload_button("{entry.role}", "Open an image")


def _which_is_which(controls: SegmentationControls) -> None:
    with html.Div(v_if="segment_inputs.length > 1", classes="mt-2"):
        v.VBtn(
            "Tell which image is which",
            size="small",
            variant="tonal",
            disabled=(BUSY,),
            click=controls.recognise,
            classes="hyperreg-recognise",
            title="By the names of the images, else by a look at their contrast; check it",
        )
        html.Div("{{ segment_guess }}", v_if="segment_guess", classes="text-caption mt-1 hyperreg-guess")


def _sliders(controls: SegmentationControls) -> None:
    """Of the hyperparameters that the model declares; most declare none."""
    with html.Div(v_for="entry in segment_sliders", key="entry.name", classes="mt-2", title=("entry.hint",)):
        html.Span("{{ entry.title }} = {{ Number(entry.value).toFixed(2) }}", classes="text-body-2")
        v.VSlider(
            model_value=("entry.value",),
            update_modelValue=(controls.set_slider, "[entry.name, $event]"),
            min=0,
            max=1,
            step=0.01,
            density="compact",
            hide_details=True,
            disabled=(BUSY,),
            aria_label=("entry.title",),
        )


def _licence(controls: SegmentationControls) -> None:
    _to_accept(
        "segment_licence", "The licence of this model", "Accept and segment", controls.accept_licence,
        controls.decline_licence, "licence",
    )  # fmt: skip


def _added_model(models: ModelControls) -> None:
    """What becomes of a model that is being added."""
    html.Div(
        "Reading {{ segment_adding }} ...",
        v_if="segment_adding && !segment_new_licence",
        classes="text-body-2 my-2",
    )
    _to_accept(
        "segment_new_licence", "The licence of {{ segment_adding }}", "Accept and add", models.accept, models.decline,
        "new-licence",
    )  # fmt: skip


def _to_accept(
    text: str, title: str, label: str, accept: Callable[[], None], decline: Callable[[], None], name: str
) -> None:
    """A licence to be read. text: the state's entry that holds it."""
    with v.VAlert(v_if=text, variant="tonal", density="compact", classes=f"my-3 hyperreg-{name}"):
        html.Div(title, classes="font-weight-bold mb-1")
        html.Div(f"{{{{ {text} }}}}", classes=f"text-caption hyperreg-lines hyperreg-licence-text hyperreg-{name}-text")
        with html.Div(classes="d-flex mt-2"):
            v.VBtn(
                label,
                size="small",
                color="primary",
                click=accept,
                classes=f"mr-2 hyperreg-accept-{name}",
            )
            v.VBtn("Decline", size="small", variant="text", click=decline)


def _result(controls: SegmentationControls) -> None:
    not_this_image("segment")
    with html.Div(v_if="segment_rows.length && segment_current"):
        html.Div("{{ segment_summary }}", classes="text-body-2 mt-2 hyperreg-lines hyperreg-segment-summary")
        structures(
            "segment",
            controls,
            "sure – doubtful",
            "Its volume if the border were drawn where the model is rather sure (probability 0.75) and rather doubtful "
            "(0.25); not calibrated",
            "segment_border_key",
            "go there, and move its border below",
        )
        _border(controls)
        opacity("segment", "Segments")
        tour(
            "segment_map",
            "segment_place",
            "Show doubt",
            "Colours where the model was in doubt; not calibrated",
            controls.next_place,
            "Next doubtful region",
            "Moves the views to the next place in which the model was in doubt, the largest first",
        )
        keep_or_undo(
            "segment",
            controls.save,
            "Writes the segmentation (for 3D Slicer and as a label map), the uncertainty map and the volumes",
            controls.undo,
            "Takes this segmentation away",
        )


def _border(controls: SegmentationControls) -> None:
    """The slider that moves the border of the chosen structure."""
    with html.Div(classes="mt-2 hyperreg-border", title=(f"segment_border_fixed ? '' : '{texts.BORDER_HINT}'",)):
        html.Div("{{ segment_border_text }}", classes="text-caption hyperreg-border-text")
        v.VSlider(
            v_model=("segment_border",),
            min=SUREST,
            max=WIDEST,
            step=1,
            ticks=(f"{{{RESULT}: ''}}",),
            show_ticks="always",
            density="compact",
            hide_details=True,
            disabled=("segment_border_fixed || segment_saving",),
            aria_label="Border of the chosen structure",
        )
        with html.Div(classes="d-flex align-center justify-space-between text-caption text-medium-emphasis"):
            html.Span(texts.ONLY_SURE)
            # In the middle, where the slider has the result.
            v.VBtn(
                "Back to the result",
                size="x-small",
                variant="tonal",
                disabled=("!segment_border_can_go_back || segment_saving",),
                click=controls.border.back,
                classes="hyperreg-border-back",
                title="Makes the chosen structure what the model found, again",
            )
            html.Span(texts.ALL_THAT_MAY_BE)


def _more(models: ModelControls) -> None:
    with section("more", "More models and settings", "hyperreg-more", eager=True):
        with html.Div(classes="d-flex align-center"):
            html.Span("Add a model: a .zip", classes="text-body-2 flex-grow-1")
            v.VBtn(
                "Remove this model",
                v_if="segment_can_remove",
                size="small",
                variant="text",
                disabled=(BUSY,),
                click=models.remove,
                classes="hyperreg-remove-model",
                title="Deletes the files of the chosen model, which was added",
            )
            upload_button(
                "model", "A MONAI bundle, a model of Auto3DSeg, or one that HyperReg trained", ACCEPTED_MODELS
            )
        with html.Div(classes="d-flex align-center mt-1"):
            path_field(
                "segment_source",
                "or the path of its folder",
                "On the computer that HyperReg runs on; or of a .zip, or of a model.pt with labels.csv beside it",
                models.add_from_disk,
                "hyperreg-model-source",
            )
            v.VBtn(
                "Add",
                variant="tonal",
                size="small",
                disabled=("!segment_source || segment_adding !== ''",),
                click=(models.add_from_disk, "[segment_source]"),
                classes="ml-2 hyperreg-add-model",
                title="Shows its licence first",
            )
        v.VCheckbox(
            v_model=("segment_align",),
            v_if="segment_inputs.length > 1",
            label="Align the other images with the first one",
            density="compact",
            hide_details=True,
            title="Rigidly, for images of one session between which the patient moved; else their headers are trusted",
        )
        v.VCheckbox(
            v_model=("segment_flips",),
            disabled=("!segment_can_flip",),
            label="Average over flipped images: slower, steadier",
            density="compact",
            hide_details=True,
        )
        v.VCheckbox(
            v_model=("segment_ensemble",),
            disabled=("!segment_can_ensemble",),
            label="Average over all weights of the model: slower, steadier",
            density="compact",
            hide_details=True,
        )
        v.VSelect(v_model=("device",), items=("devices",), label="Device", density="compact", classes="mt-3")
