"""Parts that several panels of the page have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from trame.widgets import html
from trame.widgets import vuetify3 as v

from hyperreg.view.result import ResultControls

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


def switch(state: str, label: str, tip: str, classes: str, **entries: object) -> None:
    """A switch that turns the state's entry on and off. entries: others of its own, such as v_if."""
    v.VSwitch(
        **{"v_model": (state,), **entries},
        label=label,
        density="compact",
        hide_details=True,
        color="primary",
        classes=classes,
        title=tip,
    )


def path_field(state: str, label: str, tip: str, enter: object, classes: str, disabled: str = "false") -> None:
    """A place on the computer that HyperReg runs on, typed; see `text_field`."""
    text_field(state, label, "/path/of/the/folder", tip, enter, classes, disabled)


def text_field(
    state: str, label: str, example: str, tip: str, enter: object, classes: str, disabled: str = "false"
) -> None:
    """A line of text. state: its entry; enter(text): what the key Enter does; disabled: an expression."""
    v.VTextField(
        v_model=(state,),
        label=label,
        placeholder=example,
        density="compact",
        hide_details=True,
        disabled=(disabled,),
        classes=classes,
        title=tip,
        # With the text: the state that the program has may be some letters behind.
        keyup_enter=(enter, "[$event.target.value]"),
        __events=[("keyup_enter", "keyup.enter")],
    )


def look_button(state: str, looking: str, disabled: str, tip: str, look: object, classes: str) -> None:
    """Looks what lies at a typed place: look(place). state: see `path_field`; looking, disabled: expressions."""
    v.VBtn(
        icon="mdi-folder-search-outline",
        variant="text",
        size="small",
        loading=(looking,),
        disabled=(disabled,),
        click=(look, f"[{state}]"),
        classes=classes,
        title=tip,
        aria_label=tip,
    )


def file_row(role: str, title: str, what: str, tip: str, remove: object, accepted: str = ACCEPTED) -> None:
    """A file that can be opened and removed. role: see `upload_button`; its name is the state's `ROLE_name`.

    title, what: in words, of the row and for "Remove the ..."; remove: what the button does.
    """
    with html.Div(classes=f"d-flex align-center hyperreg-row-{role.replace('_', '-')}"):
        with html.Div(classes="flex-grow-1 overflow-hidden"):
            html.Div(title, classes="text-caption text-medium-emphasis")
            html.Div(f"{{{{ {role}_name || 'none' }}}}", classes="text-truncate")
        v.VBtn(
            icon="mdi-close",
            variant="text",
            size="small",
            v_if=f"{role}_name",
            click=remove,
            title="Remove",
            aria_label=f"Remove the {what}",
        )
        upload_button(role, tip, accepted)


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


@contextmanager
def sections(opened: str) -> Iterator[None]:
    """Sections that fold, several open at a time. opened: the state's entry with the names of those that are."""
    with v.VExpansionPanels(
        v_model=(opened,), multiple=True, variant="accordion", elevation=0, classes="mt-2 hyperreg-sections"
    ):
        yield


@contextmanager
def section(name: str, title: str, classes: str, *, eager: bool = False) -> Iterator[None]:
    """One of `sections`. eager: it is in the page even while it is folded."""
    with v.VExpansionPanel(title=title, value=name, eager=eager, classes=classes), v.VExpansionPanelText():
        yield


@contextmanager
def drop_target(role: str, classes: str) -> Iterator[None]:
    """A box that a file can be dropped on, see `upload_button`."""
    events = ["@dragover.prevent", f"@drop.prevent=\"utils.hyperreg.drop('{role}', $event)\""]
    with html.Div(classes=f"{classes} hyperreg-drop-{role}", raw_attrs=events):
        yield


def run_bar(
    state: str, label: str, disabled: str, missing: str, start: Callable[[], None], cancel: Callable[[], None]
) -> None:
    """What a run does, and its button. state: how its entries in the state begin (`STATE_phase`, ...).

    disabled, missing: expressions: whether it cannot be pressed; what is still to be done, a text.
    """
    idle = f"{state}_phase === 'idle'"
    says = f"uploading ? 'Reading the file ...' : {idle} ? {missing} || 'Ready.' : {state}_text || 'Starting ...'"
    with html.Div(classes="d-flex align-center"):
        html.Span(f"{{{{ {says} }}}}", classes="text-body-2 flex-grow-1 hyperreg-state")
        html.Span(f"{{{{ Math.round({state}_progress) }}}} %", v_if=f"!({idle})", classes="text-caption ml-2")
    v.VProgressLinear(
        model_value=(f"{state}_progress",),
        color="primary",
        height=4,
        rounded=True,
        style=(f"{idle} ? 'visibility: hidden' : ''",),
        classes="my-1",
    )
    v.VBtn(
        f"{{{{ {state}_rows.length ? '{label} again' : '{label}' }}}}",
        v_if=idle,
        block=True,
        color="primary",
        variant="flat",
        disabled=(disabled,),
        click=start,
        classes=f"hyperreg-{state}",
    )
    v.VBtn("Cancel", v_if=f"!({idle})", block=True, variant="tonal", click=cancel, classes=f"hyperreg-cancel-{state}")


def not_this_image(state: str) -> None:
    """Says that the result is another image's, whose numbers would be misread beside this one."""
    html.Div(
        "The last result belongs to another image; choose that one to see it.",
        v_if=f"{state}_rows.length && !{state}_current",
        classes=f"text-body-2 text-medium-emphasis mt-3 hyperreg-{state}-elsewhere",
    )


def structures(
    state: str, controls: ResultControls, spread: str, spread_tip: str, chosen: str = "''", tip: str = "go there"
) -> None:
    """The table of structures: shown or not, name (a click goes there), volume and its spread.

    state: as for `run_bar`. chosen: an expression: the key of the one that stands out. tip: what a click does.
    """
    with html.Div(classes="hyperreg-segment-table mt-2"), v.VTable(density="compact", classes="hyperreg-metrics"):
        with html.Thead(), html.Tr():
            with html.Th(), html.Div(classes="d-flex align-center"):
                _eye(
                    f"{state}_rows.some(row => row.shown)",
                    (controls.show_all_segments, f"[!{state}_rows.some(row => row.shown)]"),
                    "Show or hide all",
                )
                html.Span("Structure")
            html.Th("ml", classes="text-right")
            html.Th(spread, classes="text-right", title=spread_tip)
        with (
            html.Tbody(),
            html.Tr(
                v_for=f"row in {state}_rows",
                key="row.name",
                classes=(f"row.key === {chosen} ? 'hyperreg-chosen' : ''",),
            ),
        ):
            with html.Td(), html.Div(classes="d-flex align-center"):
                _eye("row.shown", (controls.show_segment, "[row.key, !row.shown]"), "Show or hide")
                html.Div(style=("'background: ' + row.colour",), classes="hyperreg-swatch mr-2")
                html.Span(
                    "{{ row.name }}",
                    classes="hyperreg-segment-name",
                    style="cursor: pointer",
                    title=(f"row.name + ': {tip}'",),
                    click=(controls.go_to_segment, "[row.key]"),
                )
            html.Td("{{ row.volume }}", classes="text-right font-weight-medium")
            html.Td("{{ row.spread }}", classes="text-right text-medium-emphasis text-no-wrap")


def _eye(shown: str, click: object, tip: str) -> None:
    v.VBtn(
        icon=(f"{shown} ? 'mdi-eye' : 'mdi-eye-off-outline'",),
        variant="text",
        size="x-small",
        density="compact",
        click=click,
        title=tip,
        aria_label=tip,
        classes="mr-1 hyperreg-eye",
    )


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
            classes=f"hyperreg-next-{place.replace('_', '-')}",
            title=next_tip,
        )
    html.Div(f"{{{{ {place} }}}}", v_if=place, classes=f"text-caption hyperreg-{place.replace('_', '-')}")


def keep_or_undo(
    state: str, save: Callable[[], Awaitable[None]], save_tip: str, undo: Callable[[], None], undo_tip: str
) -> None:
    """Downloads of a result, and its end. state: as for `run_bar`."""
    with html.Div(classes="d-flex hyperreg-actions mt-2"):
        v.VBtn(
            "Prepare downloads",
            variant="tonal",
            loading=(f"{state}_saving",),
            disabled=(f"{state}_saving",),
            click=save,
            classes=f"flex-grow-1 hyperreg-{state}-save",
            title=save_tip,
        )
        v.VBtn(
            "Undo",
            variant="text",
            disabled=(f"!{state}_can_undo",),
            click=undo,
            classes=f"ml-1 hyperreg-undo-{state}",
            title=undo_tip,
        )
    download_links(f"{state}_downloads", f"{state}_downloads_title", f"hyperreg-{state}-downloads")
