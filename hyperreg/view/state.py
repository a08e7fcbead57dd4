"""What the page shows: plain values shared with the browser, which may send anything (`Controller` checks it)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hyperreg.mrml.lifecycle import IDLE
from hyperreg.mrml.registration.texts import lambda_words
from hyperreg.registration import catalogue

# Where the slider begins, everywhere.
DEFAULT_LAMBDA = catalogue.NONE.default_lambda

# The panel of registration.
PANEL = "registration"
FADE, CHECKERBOARD, SIDE_BY_SIDE = "fade", "checkerboard", "sideBySide"
MODES = (FADE, CHECKERBOARD, SIDE_BY_SIDE)
IMAGE_ROLES = ("fixed", "moving")
# That can stand below the axial one, side by side.
PLANES = ("Coronal", "Sagittal")

# Modality of models: no matter which. How strong segments cover the image at first.
ANY = "any"
OPACITY = 0.5

# Names as in Slicer, so that its slice colours apply. The second row is for the moving volume.
BOTH_VIEWS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
MOVING_VIEWS = {"Red2": "Axial", "Green2": "Coronal", "Yellow2": "Sagittal"}
SLICES = {**BOTH_VIEWS, **MOVING_VIEWS}


@dataclass
class PageState:
    """Names and first values of the shared state.

    panel: which one is shown. phase: IDLE, RUNNING or LIVE. can_undo_reset: whether a reset can be undone; undo_title:
    what the page calls that.
    lam_word: λ in words.
    solved: whether the views show a field computed for exactly the logic's λ (else a preview).
    solved_lam: the λ of that field, -1 for none; the browser's own lam may be ahead of the views.
    stage_text: how good what is shown is, in words. work_text: what is being computed, in words, or "".
    full_running: whether that is full resolution. can_request_full: whether full resolution has to be asked for.
    rows: the metrics, see `measures.metric_rows`; fresh: whether there are any of what is shown; else "now" is blank.
    downloads: {title, name, url}.
    uploading: the role whose file is on its way or being read, or "".
    image_sections: those below the images that are unfolded. series_source: where DICOM files lie on the computer that
    the app runs on, as typed; series_busy: what is read of them, in words, or ""; series_found: what there is, in
    words; series_rows: {number, title, about, problem}. series_opened: whether an open image is a DICOM series, so that
    results are written as DICOM, too; series_leave_out: without patient data.
    recent_rows: images that were opened last, {number, name, path, series}; series: whether it is DICOM to be listed.
    recent_kept: whether they are remembered.
    models, devices, alignments, contrasts: {title, value} to
    choose from. landmarks_note: how many pairs of landmarks there are, or what is missing.
    pull: how much the landmarks attract each other; landmark_rows: {key, name, before, now, pulls}, one per pair;
    landmarks_undoable: whether a change of them can be taken back; landmark_downloads: as downloads. placing: whether
    clicks place landmarks; placing_role: in the "fixed" or the "moving" image; placing_hint: where, in words.
    contrast_note: what the user should know of how the pair is registered.
    volume_change: whether the map of local volume change lies over the views; volume_change_legend: its scale, SVG;
    volume_change_note: why there is none yet, or "".
    worse: why what is shown is worse than the linear alignment, or "".
    sections: those of the registration panel that are unfolded. overlap_note: that the images do not overlap, or "".
    centred: whether their centres were aligned. aligned: the linear alignment that the
    moving image has, or "". probe: what lies under the mouse. windows: {title, value} to choose
    from. computer: address of another computer that is to compute, as typed; computer_note: what became of that.
    lines, in_3d, second_plane, help: what the views' toolbar has switched on.
    learn_models, learn_model, learn_images, learn_hours: of a model that is to learn from the images of a folder;
    learn_running, learn_progress: whether it does, and how far it is, percent; learn_text: what it does, or came to.
    suggested: a λ as text, or "". regions: {key, name, colour, own, lam, rigid}, one per label; own: whether it has its
    own λ. symmetric: whether neither image is preferred.
    """

    panel: str = ""
    phase: str = IDLE
    can_undo_reset: bool = False
    undo_title: str = ""
    fixed_name: str = ""
    fixed_info: str = ""
    moving_name: str = ""
    moving_info: str = ""
    fixed_labels_name: str = ""
    moving_labels_name: str = ""
    sample: bool = False
    uploading: str = ""
    image_sections: list[str] = field(default_factory=list)
    series_source: str = ""
    series_busy: str = ""
    series_found: str = ""
    series_rows: list[dict[str, Any]] = field(default_factory=list)
    series_opened: bool = False
    series_leave_out: bool = False
    recent_rows: list[dict[str, Any]] = field(default_factory=list)
    recent_kept: bool = False
    progress: float = 0.0
    progress_text: str = ""
    lam: float = DEFAULT_LAMBDA
    lam_word: str = ""
    solved: bool = False
    solved_lam: float = -1.0
    stage_text: str = ""
    work_text: str = ""
    work_progress: float = 0.0
    full_automatically: bool = True
    full_running: bool = False
    can_request_full: bool = False
    rows: list[dict[str, str]] = field(default_factory=list)
    fresh: bool = False
    has_gamma: bool = False
    gamma: float = 0.5
    gamma_title: str = ""
    gamma_hint: str = ""
    contrast_note: str = ""
    worse: str = ""
    volume_change: bool = False
    volume_change_legend: str = ""
    volume_change_note: str = ""
    response_svg: str = ""
    suggested: str = ""
    suggestion_reason: str = ""
    suggestion_taken: bool = False
    regions_name: str = ""
    regions: list[dict[str, Any]] = field(default_factory=list)
    fixed_points_name: str = ""
    moving_points_name: str = ""
    landmarks_note: str = ""
    pull: float = 0.0
    landmark_rows: list[dict[str, Any]] = field(default_factory=list)
    landmarks_undoable: bool = False
    landmark_downloads: list[dict[str, str]] = field(default_factory=list)
    placing: bool = False
    placing_role: str = ""
    placing_hint: str = ""
    fixed_left_out_name: str = ""
    moving_left_out_name: str = ""
    contrasts: list[dict[str, str]] = field(default_factory=list)
    contrast: str = "auto"
    symmetric: bool = False
    mode: str = "fade"
    fade: float = 0.5
    sections: list[str] = field(default_factory=lambda: ["measures", "response"])
    overlap_note: str = ""
    centred: bool = False
    aligned: str = ""
    probe: str = ""
    windows: list[dict[str, str]] = field(default_factory=list)
    lines: bool = False
    in_3d: bool = False
    second_plane: str = PLANES[0]
    help: bool = False
    saving: bool = False
    can_save: bool = False
    downloads: list[dict[str, str]] = field(default_factory=list)
    downloads_title: str = ""
    error: str = ""
    notes: list[str] = field(default_factory=list)
    device_used: str = ""
    models: list[dict[str, str]] = field(default_factory=list)
    model: str = ""
    devices: list[dict[str, str]] = field(default_factory=list)
    device: str = "auto"
    computer: str = ""
    computer_note: str = ""
    learn_models: list[dict[str, str]] = field(default_factory=list)
    learn_model: str = ""
    learn_images: str = ""
    learn_hours: str = "8"
    learn_running: bool = False
    learn_progress: float = 0.0
    learn_text: str = ""
    alignments: list[dict[str, str]] = field(default_factory=list)
    alignment: str = "affine"


@dataclass
class SegmentationState:
    """The segmentation panel's part of the shared state.

    segment_phase: "idle" or "running". segment_models, segment_volumes: {title, value} to choose from.
    segment_inputs: {name, title, role, volume, info}, one per image that the model wants; volume: a node's id or "".
    segment_guess: which image was taken for which input, in words.
    segment_licence: the text that has to be accepted before the model is used, or "".
    segment_source: the path of a model on the computer that the app runs on, as typed.
    segment_adding: the file of a model that is being added, or ""; segment_new_licence: its licence, to be accepted.
    segment_sliders: {name, title, hint, value}, one per hyperparameter of the model.
    segment_rows: {key, shown, name, colour, volume, spread}, one per segment; segment_current: whether they are of the
    image that is shown. segment_sections: those that are unfolded.
    segment_place: which doubtful region is shown, in words.
    segment_border_key: the structure whose border the slider moves, or ""; segment_border: where the slider is, see
    `hyperreg.segmentation.border`; segment_border_text: what it moves, or why it moves nothing, which
    segment_border_fixed says. segment_border_can_go_back: whether the structure differs from the result.
    segment_question: what is asked before what the user has changed goes, or ""; segment_yes: the title of a button.
    """

    segment_phase: str = IDLE
    segment_words: str = ""
    segment_modality: str = ANY
    segment_modalities: list[dict[str, str]] = field(default_factory=list)
    segment_models: list[dict[str, str]] = field(default_factory=list)
    segment_model: str = ""
    segment_about: str = ""
    segment_structures: str = ""
    segment_volumes: list[dict[str, str]] = field(default_factory=list)
    segment_inputs: list[dict[str, str]] = field(default_factory=list)
    segment_guess: str = ""
    segment_missing: str = ""
    segment_licence: str = ""
    segment_source: str = ""
    segment_adding: str = ""
    segment_new_licence: str = ""
    segment_can_remove: bool = False
    segment_flips: bool = False
    segment_can_flip: bool = False
    segment_ensemble: bool = False
    segment_can_ensemble: bool = False
    segment_sliders: list[dict[str, Any]] = field(default_factory=list)
    segment_align: bool = False
    segment_progress: float = 0.0
    segment_text: str = ""
    segment_summary: str = ""
    segment_rows: list[dict[str, Any]] = field(default_factory=list)
    segment_current: bool = False
    segment_sections: list[str] = field(default_factory=list)
    segment_opacity: float = OPACITY
    segment_map: bool = False
    segment_place: str = ""
    segment_border_key: str = ""
    segment_border: int = 0
    segment_border_text: str = ""
    segment_border_fixed: bool = True
    segment_border_can_go_back: bool = False
    segment_can_undo: bool = False
    segment_question: str = ""
    segment_yes: str = ""
    segment_saving: bool = False
    segment_downloads: list[dict[str, str]] = field(default_factory=list)
    segment_downloads_title: str = ""


@dataclass
class FusionState:
    """The fusion panel's part of the shared state.

    fuse_phase: as `segment_phase`. fuse_targets: volumes, {title, value}; fuse_target: the id of the chosen one or "".
    fuse_folder: of the atlases, on the computer that the app runs on. fuse_atlases: {name, image, labels, problem,
    picture} of what lies there; picture: an address for the browser.
    fuse_news: {name, text, percent, used}, how far each atlas is while it runs. fuse_early: which early answer is
    shown, in words, or "". fuse_plot, fuse_early_plot: weights and data parameters, SVG.
    fuse_raters: {name, state, weight, share, dice, sensitivity, specificity, similarity, note}, texts but for share,
    0 to 100. fuse_rows, fuse_current: as `segment_rows`, `segment_current`.
    fuse_place: which disagreement is shown, in words.
    """

    fuse_phase: str = IDLE
    fuse_targets: list[dict[str, str]] = field(default_factory=list)
    fuse_target: str = ""
    fuse_folder: str = ""
    fuse_looking: bool = False
    fuse_atlases: list[dict[str, str]] = field(default_factory=list)
    fuse_found: str = ""
    fuse_methods: list[dict[str, str]] = field(default_factory=list)
    fuse_method: str = "local"
    fuse_method_hint: str = ""
    fuse_lam: float = DEFAULT_LAMBDA
    fuse_refine: bool = False
    fuse_select: int = 0
    fuse_missing: str = ""
    fuse_progress: float = 0.0
    fuse_text: str = ""
    fuse_news: list[dict[str, Any]] = field(default_factory=list)
    fuse_early: str = ""
    fuse_early_plot: str = ""
    fuse_plot: str = ""
    fuse_summary: str = ""
    fuse_raters: list[dict[str, Any]] = field(default_factory=list)
    fuse_sort: str = ""
    fuse_rows: list[dict[str, Any]] = field(default_factory=list)
    fuse_current: bool = False
    fuse_opacity: float = OPACITY
    fuse_map: bool = False
    fuse_place: str = ""
    fuse_can_undo: bool = False
    fuse_saving: bool = False
    fuse_downloads: list[dict[str, str]] = field(default_factory=list)
    fuse_downloads_title: str = ""


def word(lam: float) -> str:
    """λ in a word, the first of those that the Slicer module has."""
    return str(lambda_words(lam)).partition(":")[0].lower()
