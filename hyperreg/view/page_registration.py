"""The panel of registration: images, λ, comparison, metrics, downloads. Nothing here decides anything."""

from __future__ import annotations

from trame.widgets import html
from trame.widgets import vuetify3 as v

from hyperreg.view import page_tuning
from hyperreg.view.controller import Controller
from hyperreg.view.parts import download_links, upload_button
from hyperreg.view.state import CHECKERBOARD, FADE, SIDE_BY_SIDE


def fill(controller: Controller) -> None:
    """The content of the panel."""
    _images()
    _run(controller)
    _slider(controller)
    _comparison()
    _metrics()
    _downloads(controller)
    with v.VExpansionPanels(variant="accordion", classes="mt-3"):
        page_tuning.regions(controller, upload_button)
        _more(controller)


def _images() -> None:
    with html.Div(classes="hyperreg-images"):
        for role, title in (("fixed", "Fixed"), ("moving", "Moving")):
            with html.Div(classes="d-flex align-center"):
                html.Div(title, classes="hyperreg-role text-medium-emphasis")
                with html.Div(classes="flex-grow-1 overflow-hidden"):
                    html.Div(f"{{{{ {role}_name }}}}", classes=f"text-truncate hyperreg-{role}-name")
                    html.Div(f"{{{{ {role}_info }}}}", classes="text-caption text-medium-emphasis text-truncate")
                upload_button(role, f"Open another {role} image")


def _run(controller: Controller) -> None:
    with html.Div(classes="my-2"):
        v.VBtn(
            "{{ phase === 'live' ? 'Register again' : 'Register' }}",
            v_if="phase !== 'running'",
            block=True,
            size=("phase === 'live' ? 'default' : 'large'",),
            color="primary",
            variant=("phase === 'live' ? 'tonal' : 'flat'",),
            disabled=("!fixed_name || !moving_name || !model || uploading !== ''",),
            click=controller.register,
            classes="hyperreg-register",
        )
        with html.Div(v_if="phase === 'running'"):
            with html.Div(classes="d-flex align-center mb-1"):
                html.Span("{{ progress_text }}", classes="text-body-2 flex-grow-1 text-truncate")
                v.VBtn("Cancel", size="small", variant="tonal", click=controller.cancel, classes="hyperreg-cancel")
            v.VProgressLinear(model_value=("progress",), color="primary", height=8, rounded=True)


def _slider(controller: Controller) -> None:
    with html.Div(classes="hyperreg-lambda pa-3", style=("phase === 'live' ? '' : 'opacity: 0.45'",)):
        with html.Div(classes="d-flex align-baseline"):
            html.Span("λ = {{ Number(lam).toFixed(2) }}", classes="text-h5 font-weight-medium hyperreg-lambda-value")
            html.Span("{{ lam_word }}", classes="text-body-1 ml-3 text-primary flex-grow-1")
        v.VSlider(
            v_model=("lam",),
            min=0,
            max=1,
            step=0.005,
            disabled=("phase !== 'live'",),
            color="primary",
            track_size=8,
            thumb_size=26,
            hide_details=True,
            classes="hyperreg-lambda-slider mt-1",
            aria_label="λ: 0 most flexible, 1 most rigid",
        )
        with html.Div(classes="d-flex justify-space-between text-caption text-medium-emphasis"):
            html.Span("flexible: follows every detail")
            html.Span("rigid: keeps the shape")
        page_tuning.stage(controller.tuning)
        page_tuning.gamma()
        page_tuning.response(controller.tuning)


def _comparison() -> None:
    with html.Div(classes="mt-3"):
        with v.VBtnToggle(
            v_model=("mode",), mandatory=True, density="compact", divided=True, variant="outlined", classes="w-100"
        ):
            for mode, title in (
                (FADE, "Fade"),
                (CHECKERBOARD, "Checkerboard"),
                (SIDE_BY_SIDE, "Side by side"),
            ):
                v.VBtn(title, value=mode, size="small", classes=f"flex-grow-1 hyperreg-mode-{mode}")
        with html.Div(v_if=f"mode === '{FADE}'", classes="d-flex align-center mt-2"):
            html.Span("Fixed", classes="text-caption")
            v.VSlider(
                v_model=("fade",),
                min=0,
                max=1,
                step=0.01,
                density="compact",
                hide_details=True,
                classes="mx-2 hyperreg-fade",
                aria_label="Fade between the fixed and the moving image",
            )
            html.Span("Moving", classes="text-caption")


def _metrics() -> None:
    v.VAlert(
        "{{ worse }}",
        v_if=("worse",),
        type="error",
        variant="tonal",
        density="compact",
        classes="mt-3 hyperreg-worse",
    )
    with v.VTable(
        v_if="phase === 'live'",
        density="compact",
        classes="mt-2 hyperreg-metrics",
    ):
        with html.Thead(), html.Tr():
            html.Th("")
            html.Th("aligned", title="After the linear alignment alone", classes="text-right")
            html.Th("now", classes="text-right")
        with html.Tbody():
            with html.Tr(v_for="row in rows", key="row.name", title=("row.hint",)):
                html.Td("{{ row.name }}")
                html.Td("{{ row.before }}", classes="text-right text-medium-emphasis")
                html.Td("{{ row.now || '…' }}", classes="text-right font-weight-medium")
            with html.Tr(v_if="rows.length === 0"):
                html.Td("Measuring ...", colspan="3", classes="text-medium-emphasis")


def _downloads(controller: Controller) -> None:
    with html.Div(classes="mt-2"):
        with html.Div(classes="d-flex hyperreg-actions"):
            v.VBtn(
                "Keep this result",
                variant="tonal",
                loading=("saving",),
                disabled=("!can_save || saving",),
                click=controller.save,
                classes="flex-grow-1 text-none hyperreg-save",
                title="Writes the registered image, the transform, its inverse and a report for download",
            )
            v.VBtn(
                "Reset",
                variant="text",
                disabled=("phase !== 'live'",),
                click=controller.reset,
                classes="ml-1 text-none hyperreg-reset",
                title="Back to both images as they were loaded",
            )
        download_links("downloads", "downloads_title", "hyperreg-downloads")


def _more(controller: Controller) -> None:
    with v.VExpansionPanel(title="More", elevation=0), v.VExpansionPanelText():
        v.VSelect(v_model=("alignment",), items=("alignments",), label="Initial alignment", density="compact")
        v.VSelect(v_model=("model",), items=("models",), label="Model", density="compact")
        v.VSelect(v_model=("device",), items=("devices",), label="Device", density="compact")
        page_tuning.contrast()
        html.Div("Runs on: {{ device_used }}", v_if="device_used", classes="text-caption mb-2")
        for role, title in (("fixed", "Fixed label map"), ("moving", "Moving label map")):
            with html.Div(classes="d-flex align-center"):
                with html.Div(classes="flex-grow-1 overflow-hidden"):
                    html.Div(title, classes="text-caption text-medium-emphasis")
                    html.Div(f"{{{{ {role}_labels_name || 'none' }}}}", classes="text-truncate")
                v.VBtn(
                    icon="mdi-close",
                    variant="text",
                    size="small",
                    v_if=f"{role}_labels_name",
                    click=(controller.remove_labels, f"['{role}']"),
                    title="Remove",
                    aria_label=f"Remove the {role} label map",
                )
                upload_button(f"{role}_labels", f"Open a label map of the {role} image")
        page_tuning.landmarks(controller.tuning)
        v.VBtn("Open the sample pair", variant="text", size="small", click=controller.load_sample, classes="mt-2")
