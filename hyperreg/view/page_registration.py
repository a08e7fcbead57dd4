"""The panel of registration: images, λ, metrics, settings; its bar. Nothing here decides anything."""

from __future__ import annotations

from trame.widgets import html
from trame.widgets import vuetify3 as v

from hyperreg.view import page_tuning
from hyperreg.view.controller import Controller
from hyperreg.view.parts import (
    download_links,
    drop_target,
    file_row,
    look_button,
    path_field,
    section,
    sections,
    switch,
    text_field,
    upload_button,
)
from hyperreg.view.state import IMAGE_ROLES

STATE = (
    "uploading ? 'Reading the file ...' : phase === 'running' ? progress_text || 'Starting ...' : "
    "phase === 'live' ? work_text ? 'Computing: ' + work_text : 'Ready. Move λ and watch the views.' : "
    "!fixed_name ? 'Open the fixed image.' : !moving_name ? 'Open the moving image.' : "
    "'Ready. Register brings the moving image onto the fixed one.'"
)
BUSY = "phase === 'running' || work_text !== ''"


def fill(controller: Controller) -> None:
    """The content of the panel."""
    _images(controller)
    _slider(controller)
    _worse()
    download_links("downloads", "downloads_title", "hyperreg-downloads")
    with sections("sections"):
        _metrics()
        page_tuning.response(controller.tuning)
        page_tuning.regions(controller, upload_button)
        page_tuning.left_out(controller.tuning)
        _landmarks(controller)
        _settings(controller)
        if controller.learning.is_possible:
            _learning(controller)


def bar(controller: Controller) -> None:
    """What is going on, and what can be done next: always in sight."""
    with html.Div(classes="d-flex align-center"):
        html.Span(
            f"{{{{ {STATE} }}}}",
            classes="text-body-2 flex-grow-1 hyperreg-state",
        )
        html.Span("{{ Math.round(progress) }} %", v_if="phase === 'running'", classes="text-caption ml-2")
        v.VBtn(
            "Stop",
            v_if="full_running && phase === 'live'",
            size="x-small",
            variant="tonal",
            click=controller.tuning.stop_full,
            classes="ml-2 hyperreg-stop-full",
            title="Gives full resolution up. What is shown stays; it can be asked for again.",
        )
    v.VProgressLinear(
        model_value=("phase === 'running' ? progress : work_progress",),
        color="primary",
        height=4,
        rounded=True,
        style=(f"({BUSY}) ? '' : 'visibility: hidden'",),
        classes="my-1 hyperreg-progress",
    )
    with html.Div(classes="d-flex hyperreg-actions"):
        v.VBtn(
            "Register",
            v_if="phase === 'idle'",
            color="primary",
            variant="flat",
            disabled=("!fixed_name || !moving_name || uploading !== ''",),
            click=controller.register,
            classes="flex-grow-1 hyperreg-register",
        )
        v.VBtn(
            "Alignment only",
            v_if="phase === 'idle'",
            variant="tonal",
            disabled=("!fixed_name || !moving_name || uploading !== '' || alignment === 'none'",),
            click=controller.alignment.start,
            classes="ml-2 hyperreg-align",
            title="Only the linear alignment that is chosen in the settings, without a deformation",
        )
        v.VBtn(
            "{{ undo_title }}",
            v_if="phase === 'idle' && can_undo_reset",
            variant="tonal",
            disabled=("uploading !== ''",),
            click=controller.undo_reset,
            classes="ml-2 hyperreg-undo-reset",
            title="Brings back the registration that was ended last, with its images, its λ and everything that was "
            "computed. Possible until another one is there.",
        )
        v.VBtn(
            "Cancel",
            v_if="phase === 'running'",
            variant="tonal",
            click=controller.cancel,
            classes="flex-grow-1 hyperreg-cancel",
        )
        v.VBtn(
            "Keep this result",
            v_if="phase === 'live'",
            color="primary",
            variant="flat",
            loading=("saving",),
            disabled=("!can_save || saving",),
            click=controller.save,
            classes="flex-grow-1 hyperreg-save",
            title="Writes the registered image, the transform, its inverse and a report (also on one page, as PDF) for "
            "download",
        )
        v.VBtn(
            "Register again",
            v_if="phase === 'live'",
            variant="tonal",
            disabled=("uploading !== ''",),
            click=controller.register,
            classes="ml-2 hyperreg-register",
            title="With the images and settings of now",
        )
        v.VBtn(
            "Reset",
            v_if="phase === 'live'",
            variant="text",
            click=controller.reset,
            classes="ml-1 hyperreg-reset",
            title="Back to both images as they were loaded. It can be undone.",
        )


def _series(controller: Controller) -> None:
    """DICOM: what lies in a folder or zip, and which of it is opened as what."""
    series = controller.series
    busy = "series_busy || uploading !== ''"
    with section("series", "DICOM", "hyperreg-series", eager=True), drop_target("series", ""):
        with html.Div(classes="d-flex align-center"):
            path_field(
                "series_source",
                "Folder, DICOMDIR or zip",
                "On the computer that HyperReg runs on",
                series.look,
                "hyperreg-series-source",
                busy,
            )
            look_button(
                "series_source",
                "series_busy !== ''",
                f"!series_source || {busy}",
                "List the series that lie there",
                series.look,
                "hyperreg-series-look",
            )
            upload_button("series", "Open a zip of DICOM files (or drop it here)", ".zip")
        html.Div("{{ series_busy || series_found }}", classes="text-caption text-medium-emphasis hyperreg-series-found")
        switch(
            "series_leave_out",
            "Leave out patient data in results",
            "Names, IDs, dates and descriptions are left out; UIDs stay: by them DICOM results find their image.",
            "hyperreg-series-leave-out",
            v_if="series_opened",
        )
        with (
            html.Div(style="max-height: 320px; overflow-y: auto"),
            html.Div(v_for="row in series_rows", key="row.number", classes="d-flex align-center hyperreg-series-row"),
        ):
            _row("row.problem || row.title", "row.title", "row.problem || row.about")
            for role in IMAGE_ROLES:
                _row_button(
                    role.capitalize(), "!row.problem", busy, (series.open, f"[row.number, '{role}']"),
                    f"Open this series as the {role} image", f"hyperreg-series-{role}",
                )  # fmt: skip


def _row(tip: str, upper: str, lower: str) -> None:
    """What a row of a list says, in two lines. All are expressions."""
    with html.Div(classes="flex-grow-1 overflow-hidden", title=(tip,)):
        html.Div(f"{{{{ {upper} }}}}", classes="text-body-2 text-truncate")
        html.Div(f"{{{{ {lower} }}}}", classes="text-caption text-medium-emphasis text-truncate")


def _row_button(text: str, shown: str, busy: str, click: object, tip: str, classes: str) -> None:
    """A button of a row. shown, busy: expressions."""
    v.VBtn(
        text,
        v_if=shown,
        size="x-small",
        variant="tonal",
        disabled=(busy,),
        click=click,
        classes=f"ml-1 {classes}",
        title=tip,
    )


def _recent(controller: Controller) -> None:
    """Images of the computer that HyperReg runs on that were opened last."""
    recent = controller.recent
    busy = "series_busy || uploading !== ''"
    with section("recent", "Recent", "hyperreg-recent"):
        html.Div(
            "Nothing yet. Files that are sent by the browser are not remembered.",
            v_if="!recent_rows.length && recent_kept",
            classes="text-caption",
        )
        with (
            html.Div(style="max-height: 240px; overflow-y: auto"),
            html.Div(v_for="row in recent_rows", key="row.path", classes="d-flex align-center hyperreg-recent-row"),
        ):
            _row("row.path", "row.name", "row.path")
            for role in IMAGE_ROLES:
                _row_button(
                    role.capitalize(), "!row.series", busy, (recent.open, f"[row.number, '{role}']"),
                    f"Open it as the {role} image", f"hyperreg-recent-{role}",
                )  # fmt: skip
            _row_button(
                "List", "row.series", busy, (recent.open, "[row.number, '']"), "List its DICOM series above",
                "hyperreg-recent-list",
            )  # fmt: skip
        v.VSwitch(
            model_value=("recent_kept",),
            update_modelValue=(recent.set_remembered, "[$event]"),
            label="Remember what is opened",
            density="compact",
            hide_details=True,
            color="primary",
            classes="hyperreg-recent-kept",
            title="Paths on the computer that HyperReg runs on, in a file that only its user can read; nothing of "
            "uploads. Switched off, all are forgotten.",
        )


def _images(controller: Controller) -> None:
    with html.Div(classes="hyperreg-images"):
        for role in IMAGE_ROLES:
            with drop_target(role, "d-flex align-center"):
                html.Div(role.capitalize(), classes="hyperreg-role text-medium-emphasis")
                with html.Div(classes="flex-grow-1 overflow-hidden"):
                    html.Div(
                        f"{{{{ {role}_name || 'none: open or drop a file' }}}}",
                        title=(f"{role}_name",),
                        classes=f"text-truncate hyperreg-{role}-name",
                    )
                    html.Div(
                        f"{{{{ {role}_info }}}}",
                        title=(f"{role}_info",),
                        classes="text-caption text-medium-emphasis text-truncate",
                    )
                upload_button(role, f"Open another {role} image")
    with sections("image_sections"):
        _series(controller)
        if controller.recent.is_possible:
            _recent(controller)
    with v.VAlert(
        v_if="overlap_note", type="warning", variant="tonal", density="compact", classes="my-2 hyperreg-overlap"
    ):
        html.Div("{{ overlap_note }}")
        v.VBtn(
            "Align centres",
            size="small",
            variant="tonal",
            click=controller.align_centres,
            classes="mt-2 hyperreg-align-centres",
            title="Moves the moving image as a whole. Its file is not changed; results fit the files as they are.",
        )
    with html.Div(v_if="centred", classes="d-flex align-center"):
        html.Span("Centres aligned", classes="text-caption flex-grow-1")
        v.VBtn("Undo", size="x-small", variant="text", click=controller.undo_centring, classes="hyperreg-undo-centring")

    with html.Div(v_if="aligned && phase === 'idle'", classes="d-flex align-center hyperreg-aligned"):
        html.Span("{{ aligned }} alignment", classes="text-caption flex-grow-1")
        v.VBtn(
            "Prepare downloads",
            size="x-small",
            variant="tonal",
            loading=("saving",),
            click=controller.alignment.save,
            classes="hyperreg-save-alignment",
        )
        v.VBtn(
            "Undo", size="x-small", variant="text", click=controller.alignment.undo, classes="hyperreg-undo-alignment"
        )


def _slider(controller: Controller) -> None:
    with html.Div(classes="hyperreg-lambda pa-3 mt-2"):
        with html.Div(classes="d-flex align-baseline"):
            html.Span("λ = {{ Number(lam).toFixed(2) }}", classes="text-h5 font-weight-medium hyperreg-lambda-value")
            html.Span("{{ lam_word }}", classes="text-body-1 ml-3 text-primary flex-grow-1")
        html.Div(
            "{{ stage_text || (phase === 'live' ? 'No result yet' : 'Where Register begins') }}",
            classes="text-body-2 text-medium-emphasis hyperreg-stage",
            title="How good is what the views show",
        )
        v.VSlider(
            v_model=("lam",),
            min=0,
            max=1,
            step=0.005,
            color="primary",
            track_size=8,
            thumb_size=26,
            hide_details=True,
            classes="hyperreg-lambda-slider mt-1",
            aria_label="λ: 0 most flexible, 1 most rigid",
        )
        with html.Div(classes="d-flex justify-space-between text-caption text-medium-emphasis"):
            html.Span("flexible: every detail")
            html.Span("rigid: keeps the shape")
        page_tuning.gamma()
        page_tuning.resolution(controller.tuning)
        page_tuning.volume_change()
        html.Div("{{ contrast_note }}", v_if="contrast_note", classes="text-caption mt-1 hyperreg-contrast-note")


def _worse() -> None:
    v.VAlert(
        "{{ worse }}",
        v_if=("worse",),
        type="error",
        variant="tonal",
        density="compact",
        classes="mt-3 hyperreg-worse",
    )


def _metrics() -> None:
    with section("measures", "Measures", "hyperreg-measures"):
        html.Div("Shown after Register.", v_if="phase !== 'live'", classes="text-caption text-medium-emphasis")
        with v.VTable(v_if="phase === 'live'", density="compact", classes="hyperreg-metrics"):
            with html.Thead(), html.Tr():
                html.Th("{{ fresh ? 'λ = ' + solved_lam.toFixed(2) : 'Measuring ...' }}")
                html.Th("aligned", title="After the linear alignment alone", classes="text-right")
                html.Th("now", title="Of exactly what the views show", classes="text-right")
            with html.Tbody(), html.Tr(v_for="row in rows", key="row.name", title=("row.hint",)):
                html.Td("{{ row.name }}")
                html.Td("{{ row.before }}", classes="text-right text-medium-emphasis")
                html.Td("{{ row.now || '…' }}", classes="text-right font-weight-medium")


def _landmarks(controller: Controller) -> None:
    with section("labels", "Landmarks and label maps", "hyperreg-labels"):
        html.Div("Measured live: their distance and overlap.", classes="text-caption text-medium-emphasis mb-2")
        page_tuning.landmarks(controller.tuning.landmarks)
        for role in IMAGE_ROLES:
            file_row(
                f"{role}_labels",
                f"{role.capitalize()} label map",
                f"{role} label map",
                f"Open a label map of the {role} image",
                (controller.remove_labels, f"['{role}']"),
            )


def _settings(controller: Controller) -> None:
    with section("settings", "Settings", "hyperreg-settings"):
        html.Div("They take effect with the next Register.", classes="text-caption text-medium-emphasis mb-3")
        v.VSelect(v_model=("alignment",), items=("alignments",), label="Initial alignment", density="compact")
        page_tuning.contrast()
        switch(
            "symmetric",
            "Neither image is preferred",
            "For two visits of one person: the result does not depend on which image is the fixed one. "
            "It takes longer.",
            "mb-2 hyperreg-symmetric",
        )
        v.VSelect(v_model=("model",), items=("models",), label="Model", density="compact", classes="hyperreg-model")
        v.VSelect(v_model=("device",), items=("devices",), label="Device", density="compact")
        html.Div("Runs on: {{ device_used }}", v_if="device_used", classes="text-caption mb-2")
        text_field(
            "computer",
            "Compute on another computer",
            "user@host",
            "Its name for ssh, and Enter: HyperReg has to be installed there, and ssh to work without a password. "
            "Empty: this computer. Images are sent there and are gone with the connection.",
            controller.computer.choose,
            "hyperreg-computer",
        )
        html.Div("{{ computer_note }}", v_if="computer_note", classes="text-caption mt-1 mb-2 hyperreg-computer-note")
        v.VBtn("Open the sample pair", variant="text", size="small", click=controller.load_sample)


def _learning(controller: Controller) -> None:
    """A model learns from a folder of images, in a process of its own."""
    with section("learning", "Learn from my own images", "hyperreg-learning"):
        html.Div(
            "A network goes on learning from ten or more images of one part of the body, without label maps, on the "
            "computer that HyperReg runs on; nothing is sent anywhere. It goes on when this page is closed. Some of "
            "the images are held out: only if these are registered better than before it becomes one of your models.",
            classes="text-caption text-medium-emphasis mb-2",
        )
        v.VSelect(
            v_model=("learn_model",),
            items=("learn_models",),
            label="Model",
            density="compact",
            disabled=("learn_running",),
            classes="hyperreg-learn-model",
        )
        path_field(
            "learn_images",
            "Folder of images",
            "On the computer that HyperReg runs on: images of ten people or more",
            controller.learning.start,
            "mb-2 hyperreg-learn-images",
            "learn_running",
        )
        v.VTextField(
            v_model=("learn_hours",),
            label="Hours, at most",
            density="compact",
            hide_details=True,
            disabled=("learn_running",),
            classes="mb-2 hyperreg-learn-hours",
            title="Of all runs on these images together",
        )
        v.VProgressLinear(
            model_value=("learn_progress",),
            v_if="learn_running",
            color="primary",
            height=4,
            rounded=True,
            classes="my-1",
        )
        html.Div("{{ learn_text }}", v_if="learn_text", classes="text-body-2 my-1 hyperreg-lines hyperreg-learn-text")
        v.VBtn(
            "Learn over night",
            v_if="!learn_running",
            size="small",
            variant="tonal",
            block=True,
            disabled=("!learn_images",),
            click=controller.learning.start,
            classes="hyperreg-learn",
            title="Started again for the same images it goes on where it was",
        )
        v.VBtn(
            "Cancel",
            v_if="learn_running",
            size="small",
            variant="tonal",
            block=True,
            click=controller.learning.cancel,
            classes="hyperreg-cancel-learning",
        )
