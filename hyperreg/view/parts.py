"""Parts that several panels of the page have."""

from __future__ import annotations

from trame.widgets import html
from trame.widgets import vuetify3 as v

ACCEPTED = ".nii,.gz,.nrrd,.mha,.mgz,.mgh"
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
