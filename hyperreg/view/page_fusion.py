"""The panel of atlases: target, folder, method, result. Nothing here decides anything."""

from __future__ import annotations

from trame.widgets import html
from trame.widgets import vuetify3 as v

from hyperreg.view.fusion import FusionControls
from hyperreg.view.parts import (
    keep_or_undo,
    look_button,
    not_this_image,
    opacity,
    path_field,
    run_bar,
    structures,
    tour,
)

BUSY = "fuse_phase !== 'idle'"
COLUMNS = (
    ("weight", "Weight", "Its share of the votes"),
    ("similarity", "Similar", "Mean local correlation of the registered image with the target, 0 to 1"),
    ("dice", "Dice", "Overlap of its labels with the consensus, 0 to 1; that is agreement, not accuracy"),
    ("sensitivity", "Sens.", "Share of the consensus that it labelled, mean over structures"),
)


def fill(controls: FusionControls) -> None:
    """The content of the panel."""
    _inputs(controls)
    _how()
    _progress(controls)
    _result(controls)


def bar(controls: FusionControls) -> None:
    """What is going on, and the main action."""
    run_bar("fuse", "Segment by atlases", "fuse_missing !== ''", "fuse_missing", controls.fuse, controls.cancel)


def _inputs(controls: FusionControls) -> None:
    v.VSelect(
        v_model=("fuse_target",),
        items=("fuse_targets",),
        label="Image to segment",
        no_data_text="No image is open",
        density="compact",
        hide_details=True,
        disabled=(BUSY,),
        classes="hyperreg-fuse-target",
    )
    with html.Div(classes="d-flex align-center mt-3"):
        path_field(
            "fuse_folder",
            "Folder of atlases",
            "On the computer that HyperReg runs on: NAME_labels.nii.gz beside NAME.nii.gz, or atlases.csv",
            controls.look,
            "hyperreg-fuse-folder",
            BUSY,
        )
        look_button(
            "fuse_folder",
            "fuse_looking",
            "!fuse_folder || fuse_looking",
            "Look what lies there",
            controls.look,
            "hyperreg-fuse-look",
        )
    with html.Div(v_if="fuse_found", classes="mt-2"):
        html.Div("{{ fuse_found }}", classes="text-caption text-medium-emphasis hyperreg-fuse-found")
        with (
            html.Div(classes="d-flex flex-wrap hyperreg-fuse-atlases"),
            html.Div(
                v_for="atlas in fuse_atlases",
                key="atlas.name",
                classes="ma-1 text-center",
                title=("atlas.problem || `${atlas.image}, ${atlas.labels}`",),
                style="width: 72px",
            ),
        ):
            html.Img(v_if="atlas.picture", src=("atlas.picture",), alt=("atlas.name",), style="width: 72px")
            v.VIcon("mdi-alert-outline", v_if="atlas.problem", color="warning")
            html.Div("{{ atlas.name }}", classes="text-caption text-truncate")


def _how() -> None:
    v.VSelect(
        v_model=("fuse_method",),
        items=("fuse_methods",),
        label="Method",
        hint=("fuse_method_hint",),
        persistent_hint=True,
        density="compact",
        disabled=(BUSY,),
        classes="mt-3 hyperreg-fuse-method",
    )
    with html.Div(classes="d-flex align-center mt-3"):
        html.Span("λ {{ fuse_lam.toFixed(2) }}", classes="text-body-2", style="width: 56px")
        v.VSlider(
            v_model=("fuse_lam",),
            min=0,
            max=1,
            step=0.01,
            density="compact",
            hide_details=True,
            disabled=(BUSY,),
            classes="mx-2 hyperreg-fuse-lam",
            aria_label="λ of the registrations",
            title="Of all registrations: 0 most flexible, 1 most rigid. Try it on one atlas in the panel Registration.",
        )
        v.VBtn(
            "From Registration",
            size="x-small",
            variant="tonal",
            disabled=(BUSY,),
            click="fuse_lam = lam",
            classes="hyperreg-fuse-take-lam",
            title="Takes the λ that is set there",
        )
    with html.Div(classes="d-flex align-center"):
        v.VCheckbox(
            v_model=("fuse_refine",),
            label="Full resolution (slower)",
            density="compact",
            hide_details=True,
            disabled=(BUSY,),
            title="Every registration on all voxels: minutes more per atlas on a CPU",
        )
        v.VTextField(
            v_model_number=("fuse_select",),
            label="Use at most (0: all)",
            type="number",
            min=0,
            density="compact",
            hide_details=True,
            disabled=(BUSY,),
            style="max-width: 160px",
            title="Only so many atlases: those most similar after the affine alignment",
        )


def _progress(controls: FusionControls) -> None:
    """While it runs: a row per atlas; the early answer of data parameters."""
    with (
        html.Div(v_if=f"{BUSY} && fuse_news.length", classes="hyperreg-segment-table hyperreg-fuse-news mb-2"),
        html.Div(v_for="row in fuse_news", key="row.name", classes="mb-1", title=("row.text",)),
    ):
        with html.Div(classes="d-flex text-caption"):
            html.Span("{{ row.name }}", classes="mr-2 text-no-wrap")
            html.Span(
                "{{ row.text }}",
                classes=("row.used ? 'text-truncate text-medium-emphasis' : 'text-warning'",),
            )
        v.VProgressLinear(model_value=("row.percent",), color="primary", height=3, v_if="row.used")
    with html.Div(v_if=f"fuse_early && {BUSY}", classes="mb-2 hyperreg-fuse-early"):
        html.Div("{{ fuse_early }}", classes="text-body-2")
        v.VBtn(
            "Keep this answer",
            size="small",
            color="primary",
            variant="tonal",
            block=True,
            click=controls.keep_early,
            classes="my-2 hyperreg-fuse-keep",
            title="Learns no further: the consensus so far becomes the result",
        )
        html.Div(v_html=("fuse_early_plot",))


def _result(controls: FusionControls) -> None:
    not_this_image("fuse")
    with html.Div(v_if="fuse_raters.length && fuse_current"):
        html.Div("{{ fuse_summary }}", classes="text-body-2 hyperreg-fuse-summary")
        _places(controls)
        _raters(controls)
        html.Div(v_html=("fuse_plot",), classes="mt-2 hyperreg-fuse-plot")
        structures("fuse", controls, "atlases", "The smallest and the largest volume among the atlases")
        keep_or_undo(
            "fuse",
            controls.save,
            "Writes the consensus (for 3D Slicer and as a label map), the disagreement and both tables",
            controls.undo,
            "Takes this consensus away",
        )


def _places(controls: FusionControls) -> None:
    opacity("fuse", "Consensus")
    tour(
        "fuse_map",
        "fuse_place",
        "Show disagreement",
        "Colours where atlases say something else than the consensus, by their share",
        controls.next_place,
        "Next disagreement",
        "Moves the views to the next place in which atlases disagree, the largest first",
    )


def _raters(controls: FusionControls) -> None:
    with (
        html.Div(classes="hyperreg-segment-table mt-2"),
        v.VTable(density="compact", classes="hyperreg-metrics hyperreg-fuse-raters"),
    ):
        with html.Thead(), html.Tr():
            html.Th("Atlas", click=(controls.sort, "['name']"), style="cursor: pointer", title="Sort by name")
            for name, title, tip in COLUMNS:
                html.Th(
                    title,
                    click=(controls.sort, f"['{name}']"),
                    classes=f"text-right hyperreg-sort-{name}",
                    style="cursor: pointer",
                    title=f"{tip}. Click to sort.",
                )
        with html.Tbody(), html.Tr(v_for="row in fuse_raters", key="row.name", title=("row.note",)):
            html.Td("{{ row.name }}", classes="hyperreg-segment-name")
            with html.Td(classes="text-right", style="min-width: 64px"):
                html.Span("{{ row.weight || row.state }}", classes="text-caption")
                v.VProgressLinear(model_value=("row.share",), color="primary", height=3, v_if="row.weight")
            for name, _title, _tip in COLUMNS[1:]:
                html.Td(f"{{{{ row.{name} }}}}", classes="text-right")
