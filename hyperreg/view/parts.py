"""Parts that several panels of the page have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from trame.widgets import html
from trame.widgets import vuetify3 as v

ACCEPTED = ".nii,.gz,.nrrd,.mha,.mgz,.mgh"
ACCEPTED_MODELS = ".zip"
ACCEPTED_POINTS = ".json,.fcsv,.csv"


def upload_button(role: str, tip: str, accepted: str = ACCEPTED) -> None:
    """Opens a file for a role: its name, or `{expression}` for what the page calls it."""
    expression = role[1:-1] if role.startswith("{") else f"'{role}'"
    html.Input(
        type="file",
        id=(f"'upload-' + {expression}",),
        accept=accepted,
        style="display: none",
        change=f"utils.hyperreg.upload({expression}, $event.target)",
    )
    v.VBtn(
        icon="mdi-folder-open-outline",
        variant="text",
        size="small",
        loading=(f"uploading === {expression}",),
        disabled=("uploading !== ''",),
        click=f"utils.hyperreg.pick({expression})",
        title=tip,
        aria_label=tip,
    )


def download_links(files: str, title: str, classes: str) -> None:
    """Links to files. files, title: names of the state's entries: a list of {title, name, url}, a text."""
    with html.Div(v_if=f"{files}.length", classes=f"mt-2 {classes}"):
        html.Div(f"{{{{ {title} }}}}", classes="text-caption text-medium-emphasis")
        # With `download` the browser does not leave the page for the file, which would end the connection.
        with html.A(
            v_for=f"file in {files}",
            key="file.url",
            href=("file.url",),
            download=("file.name",),
            title=("file.name",),
            classes="d-flex align-center py-1 text-primary",
        ):
            v.VIcon("mdi-download", size="small", classes="mr-2")
            html.Span("{{ file.title }}", classes="text-body-2")


def run_button(
    state: str, label: str, disabled: str, missing: str, start: Callable[[], None], cancel: Callable[[], None]
) -> None:
    """Starts a run, and shows its progress. state: how its entries in the state begin (`STATE_phase`, ...).

    disabled, missing: expressions: whether it cannot be pressed; what is still to be done, a text.
    """
    with html.Div(classes="my-3"):
        v.VBtn(
            f"{{{{ {state}_rows.length ? '{label} again' : '{label}' }}}}",
            v_if=f"{state}_phase === 'idle'",
            block=True,
            size=(f"{state}_rows.length ? 'default' : 'large'",),
            color="primary",
            variant=(f"{state}_rows.length ? 'tonal' : 'flat'",),
            disabled=(disabled,),
            click=start,
            classes=f"hyperreg-{state}",
        )
        html.Div(
            f"{{{{ {missing} }}}}",
            v_if=f"{missing} && {state}_phase === 'idle'",
            classes="text-caption text-medium-emphasis mt-1",
        )
        running(state, cancel, state)


def structures(state: str, spread: str, spread_tip: str) -> None:
    """The table of structures with their volumes, and the spread of these. state: as for `run_button`."""
    with html.Div(classes="hyperreg-segment-table mt-2"), v.VTable(density="compact", classes="hyperreg-metrics"):
        with html.Thead(), html.Tr():
            html.Th("Structure")
            html.Th("ml", classes="text-right")
            html.Th(spread, classes="text-right", title=spread_tip)
        with html.Tbody(), html.Tr(v_for=f"row in {state}_rows", key="row.name"):
            with html.Td(), html.Div(classes="d-flex align-center"):
                html.Div(style=("'background: ' + row.colour",), classes="hyperreg-swatch mr-2")
                html.Span("{{ row.name }}", classes="hyperreg-segment-name", title=("row.name",))
            html.Td("{{ row.volume }}", classes="text-right font-weight-medium")
            html.Td("{{ row.spread }}", classes="text-right text-medium-emphasis text-no-wrap")


def running(state: str, cancel: Callable[[], None], name: str) -> None:
    """What a run does, with progress and cancel. state: how its entries in the state begin (`STATE_phase`, ...)."""
    with html.Div(v_if=f"{state}_phase !== 'idle'"):
        with html.Div(classes="d-flex align-center mb-1"):
            html.Span(
                f"{{{{ {state}_text || 'Starting ...' }}}}",
                classes="text-body-2 flex-grow-1 text-truncate",
            )
            v.VBtn(
                "Cancel",
                size="small",
                variant="tonal",
                click=cancel,
                classes=f"hyperreg-cancel-{name}",
            )
        v.VProgressLinear(model_value=(f"{state}_progress",), color="primary", height=8, rounded=True)


def opacity(state: str, what: str) -> None:
    """How strong a result (`what`, in words) covers the image."""
    with html.Div(classes="d-flex align-center mt-3"):
        html.Span("Image", classes="text-caption")
        v.VSlider(
            v_model=(f"{state}_opacity",),
            min=0,
            max=1,
            step=0.02,
            density="compact",
            hide_details=True,
            classes=f"mx-2 hyperreg-{state}-opacity",
            aria_label=f"{what}: how strong it covers the image",
        )
        html.Span(what, classes="text-caption")


def tour(
    shown: str, place: str, label: str, tip: str, next_place: Callable[[], None], next_label: str, next_tip: str
) -> None:
    """A map over the image, and the way along what it shows. shown, place: entries of the state, a truth and a text."""
    with html.Div(classes="d-flex align-center"):
        v.VSwitch(
            v_model=(shown,),
            label=label,
            density="compact",
            hide_details=True,
            color="primary",
            classes=f"flex-grow-1 hyperreg-{shown.replace('_', '-')}",
            title=tip,
        )
        v.VBtn(
            next_label,
            variant="tonal",
            size="small",
            click=next_place,
            classes=f"text-none hyperreg-next-{place.replace('_', '-')}",
            title=next_tip,
        )
    html.Div(f"{{{{ {place} }}}}", v_if=place, classes=f"text-caption hyperreg-{place.replace('_', '-')}")


def keep_or_undo(
    state: str, save: Callable[[], Awaitable[None]], save_tip: str, undo: Callable[[], None], undo_tip: str
) -> None:
    """Downloads of a result, and its end. state: as for `running`."""
    with html.Div(classes="d-flex hyperreg-actions mt-2"):
        v.VBtn(
            "Prepare downloads",
            variant="tonal",
            loading=(f"{state}_saving",),
            disabled=(f"{state}_saving",),
            click=save,
            classes=f"flex-grow-1 text-none hyperreg-{state}-save",
            title=save_tip,
        )
        v.VBtn(
            "Undo",
            variant="text",
            disabled=(f"!{state}_can_undo",),
            click=undo,
            classes=f"ml-1 text-none hyperreg-undo-{state}",
            title=undo_tip,
        )
    download_links(f"{state}_downloads", f"{state}_downloads_title", f"hyperreg-{state}-downloads")
