"""The part of the page beyond λ: γ, the response, resolution, regions, landmarks. Nothing here decides anything."""

from __future__ import annotations

from collections.abc import Callable

from trame.widgets import html
from trame.widgets import vuetify3 as v

from hyperreg.view import chart, parts
from hyperreg.view.controller import Controller
from hyperreg.view.landmarks import LandmarkControls
from hyperreg.view.parts import section, switch
from hyperreg.view.state import IMAGE_ROLES
from hyperreg.view.tuning import TuningControls


def gamma() -> None:
    """The slider of a model's second hyperparameter, by its plain title."""
    with html.Div(v_if="has_gamma", classes="d-flex align-center mt-1", title=("gamma_hint",)):
        html.Span("{{ gamma_title }} = {{ Number(gamma).toFixed(2) }}", classes="text-body-2 mr-2")
        v.VSlider(
            v_model=("gamma",),
            min=0,
            max=1,
            step=0.01,
            density="compact",
            hide_details=True,
            classes="hyperreg-gamma",
            aria_label=("gamma_title",),
        )


def response(tuning: TuningControls) -> None:
    """What every λ would give, and the suggested one."""
    with section("response", "What every λ would give", "hyperreg-response-section"):
        html.Div("Measured after Register.", v_if="phase !== 'live'", classes="text-caption text-medium-emphasis")
        with html.Div(v_if="phase === 'live'"):
            html.Div(
                v_html=("response_svg",),
                # In the picture's own pixels, however wide it is drawn.
                click=(
                    tuning.click_response,
                    f"[$event.offsetX * {chart.WIDTH} / $event.currentTarget.clientWidth]",
                ),
                classes="hyperreg-response",
                title="Click to move λ there. Orange: the suggested λ.",
            )
            v.VBtn(
                "Use suggested λ = {{ suggested }}",
                v_if="suggested && !suggestion_taken",
                block=True,
                size="small",
                variant="tonal",
                click=tuning.use_suggested,
                classes="hyperreg-use-suggested",
            )
            html.Div(
                "{{ suggested ? suggestion_reason : 'A λ is suggested once all is measured.' }}",
                classes="text-caption text-medium-emphasis mt-1 hyperreg-suggestion",
            )


def resolution(tuning: TuningControls) -> None:
    """Whether full resolution comes by itself, or is asked for."""
    with html.Div(v_if="phase === 'live'", classes="d-flex align-center"):
        switch(
            "full_automatically",
            "Full resolution automatically",
            "After the quick results each λ is computed once more on all voxels, the shown one first.",
            "flex-grow-1 hyperreg-full-automatically",
        )
        v.VBtn(
            "Full resolution now",
            v_if="can_request_full && !full_running",
            size="small",
            variant="tonal",
            click=tuning.request_full,
            classes="hyperreg-full-now",
            title="Computes the result at this λ once more on all voxels.",
        )


def volume_change() -> None:
    """The map of local volume change over the views, and its scale."""
    with html.Div(v_if="phase === 'live'"):
        switch(
            "volume_change",
            "Show local volume change",
            "Colours over the views, of exactly what is shown; while λ moves there are none.",
            "hyperreg-volume-change",
        )
        with html.Div(v_if="volume_change"):
            html.Div(v_html=("volume_change_legend",), classes="hyperreg-legend")
            html.Div("{{ volume_change_note }}", v_if="volume_change_note", classes="text-caption")
            html.Div(
                "Blue: the moving image has less volume here than the fixed one; red: more. Beyond the linear "
                "alignment; the line below the views has the % under the mouse.",
                classes="text-caption text-medium-emphasis",
            )


def contrast() -> None:
    """What a registration takes the images for."""
    v.VSelect(
        v_model=("contrast",),
        items=("contrasts",),
        label="Contrast of the images",
        density="compact",
        title="Whether both images show tissues alike. Across contrasts the deformation is kept smoother.",
        classes="hyperreg-contrast",
    )


def landmarks(controls: LandmarkControls) -> None:
    """The points of both images, and what they are good for."""
    with html.Div(classes="d-flex align-center mb-1 hyperreg-actions"):
        v.VBtn(
            "{{ placing ? 'Stop placing' : 'Place landmarks' }}",
            size="small",
            variant="tonal",
            color=("placing ? 'primary' : undefined",),
            disabled=("!fixed_name || !moving_name",),
            click="placing = !placing",
            classes="flex-grow-1 hyperreg-place",
            title="Click a place in the fixed image, then the same place in the moving one (key L)",
        )
        v.VBtn(
            "Undo",
            size="small",
            variant="text",
            disabled=("!landmarks_undoable",),
            click=controls.undo,
            classes="ml-1 hyperreg-undo-landmark",
            title="Takes the last change of the landmarks back",
        )
        v.VBtn(
            "Save",
            size="small",
            variant="text",
            disabled=("!fixed_points_name && !moving_points_name",),
            click=controls.save,
            classes="hyperreg-save-landmarks",
            title="Writes a point list of each image for download (.mrk.json of 3D Slicer)",
        )
    parts.download_links("landmark_downloads", "'Landmarks, where they are now'", "hyperreg-landmark-downloads mb-2")
    for role in IMAGE_ROLES:
        parts.file_row(
            f"{role}_points",
            f"{role.capitalize()} landmarks",
            f"landmarks of the {role} image",
            f"Open a point list of the {role} image (.mrk.json, .fcsv, .csv)",
            (controls.remove_list, f"['{role}_points']"),
            parts.ACCEPTED_POINTS,
        )
    html.Div("{{ landmarks_note }}", v_if="landmarks_note", classes="text-caption mb-2 hyperreg-landmarks-note")
    with html.Div(v_if="landmark_rows.length"):
        with html.Div(classes="d-flex align-center", title="0: only measured; 1: at the points the images have no say"):
            html.Span("Pull {{ pull ? Number(pull).toFixed(2) : '(only measured)' }}", classes="text-body-2 mr-2")
            v.VSlider(
                v_model=("pull",),
                min=0,
                max=1,
                step=0.05,
                density="compact",
                hide_details=True,
                classes="hyperreg-pull",
                aria_label="How much the landmarks attract each other",
            )
        with html.Div(classes="hyperreg-segment-table"), v.VTable(density="compact", classes="hyperreg-metrics"):
            with html.Thead(), html.Tr():
                html.Th("pulls", title="Not ticked: this pair only measures, so that it can judge the result")
                html.Th("before", classes="text-right", title="After the linear alignment alone, mm")
                html.Th("now, mm", classes="text-right", title="By what the views show")
                html.Th()
            with html.Tbody(), html.Tr(v_for="row in landmark_rows", key="row.key"):
                with html.Td(), html.Div(classes="d-flex align-center"):
                    v.VCheckboxBtn(
                        model_value=("row.pulls",),
                        update_modelValue=(controls.set_pulling, "[row.key, $event]"),
                        density="compact",
                        classes="flex-grow-0",
                        aria_label=("'Landmark ' + row.name + ' pulls'",),
                    )
                    html.Input(
                        # Lazy: rows come anew, with other distances, while somebody types; until the field is left.
                        v_model_lazy=("row.name",),
                        keyup_enter="$event.target.blur()",
                        __events=[("keyup_enter", "keyup.enter")],
                        change=(controls.rename, "[row.key, $event.target.value]"),
                        classes="hyperreg-landmark-name",
                        title="Click to give it another name",
                        aria_label=("'Name of landmark ' + row.name",),
                    )
                html.Td("{{ row.before }}", classes="text-right text-medium-emphasis")
                html.Td("{{ row.now }}", classes="text-right font-weight-medium hyperreg-landmark-now")
                with html.Td(classes="text-right text-no-wrap"):
                    for icon, tip, act, name in (
                        ("mdi-crosshairs-gps", "Go to landmark", controls.go_to, "go-to"),
                        ("mdi-close", "Remove landmark", controls.remove, "remove"),
                    ):
                        v.VBtn(
                            icon=icon,
                            variant="text",
                            size="x-small",
                            density="compact",
                            click=(act, "[row.key]"),
                            title=tip,
                            aria_label=(f"'{tip} ' + row.name",),
                            classes=f"hyperreg-{name}-landmark",
                        )


def left_out(tuning: TuningControls) -> None:
    """Areas of both images that do not count for the match, folded away."""
    with section("left_out", "Leave out", "hyperreg-left-out"):
        html.Div(
            "Label maps of what has no counterpart in the other image: a resection, a lesion, metal, contrast agent. "
            "What they mark does not count for the match; the deformation there is carried on from its surroundings.",
            classes="text-caption text-medium-emphasis mb-2",
        )
        for role in IMAGE_ROLES:
            parts.file_row(
                f"{role}_left_out",
                f"On the {role} image",
                f"area that is left out of the {role} image",
                f"Open a label map drawn on the {role} image; all that it marks is left out",
                (tuning.remove_left_out, f"['{role}_left_out']"),
            )


def regions(controller: Controller, upload_button: Callable[[str, str], None]) -> None:
    """Segments with a λ of their own, folded away."""
    tuning = controller.tuning
    with section("regions", "Regions: own λ, rigid", "hyperreg-regions"):
        html.Div(
            "Segments of the fixed image can have a λ of their own, such as stiff cartilage beside soft tissue, or "
            "move as one rigid body, such as a bone or an implant. Everything else follows the slider.",
            classes="text-caption text-medium-emphasis mb-2",
        )
        with html.Div(classes="d-flex align-center"):
            html.Div("{{ regions_name || 'No label map' }}", classes="flex-grow-1 text-truncate text-body-2")
            v.VBtn(
                icon="mdi-close",
                variant="text",
                size="small",
                v_if="regions_name",
                click=tuning.remove_regions,
                title="Let everything follow the slider and forget the label map",
                aria_label="Remove the regions",
            )
            upload_button("regions", "Open a label map of the fixed image")
        v.VBtn(
            "Use the fixed label map",
            v_if="fixed_labels_name && !regions_name",
            size="small",
            variant="tonal",
            block=True,
            click=controller.use_fixed_labels,
            classes="hyperreg-use-fixed-labels",
        )
        with html.Div(v_for="region in regions", key="region.key", classes="d-flex align-center hyperreg-region"):
            v.VCheckboxBtn(
                model_value=("region.own",),
                update_modelValue=(tuning.set_region, "[region.key, $event, region.lam]"),
                density="compact",
                color=("region.colour",),
                classes="flex-grow-0",
                aria_label=("'A λ of its own for ' + region.name",),
            )
            html.Div(style=("'background: ' + region.colour",), classes="hyperreg-swatch mr-2")
            html.Span(
                "{{ region.name }}", title=("region.name",), classes="text-body-2 hyperreg-region-name text-truncate"
            )
            v.VSlider(
                model_value=("region.lam === null ? lam : region.lam",),
                update_modelValue=(tuning.set_region, "[region.key, true, $event]"),
                min=0,
                max=1,
                step=0.01,
                density="compact",
                hide_details=True,
                disabled=("!region.own",),
                classes="mx-1",
                aria_label=("'λ of ' + region.name",),
            )
            html.Span(
                "{{ region.own ? Number(region.lam).toFixed(2) : 'slider' }}",
                classes="text-caption hyperreg-region-lam",
            )
            v.VBtn(
                icon=("region.rigid ? 'mdi-lock' : 'mdi-lock-open-variant-outline'",),
                variant="text",
                size="x-small",
                color=("region.rigid ? 'primary' : undefined",),
                click=(tuning.set_rigid, "[region.key, !region.rigid]"),
                title=("region.rigid ? 'Rigid: click to let it bend' : 'Bends: click to make it one rigid body'",),
                aria_label=("region.name + ' moves as one rigid body'",),
                classes="hyperreg-region-rigid",
            )
