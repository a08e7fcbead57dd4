"""The measures of a registration as a table for people. No torch: the browser app shows it, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def metric_rows(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """The table of metrics: name, before (linear alignment alone), now, hint."""
    rows = [
        _row(
            "Similarity",
            metrics.get("similarity_before"),
            metrics.get("similarity"),
            "{:.3f}",
            "Mean local correlation of both images inside the head or body, 0 to 1; higher is more alike.",
        ),
        _row(
            "Overlap (Dice)",
            metrics.get("dice_mean_before"),
            metrics.get("dice_mean"),
            "{:.3f}",
            "Mean over the structures of both label maps, 0 to 1.",
        ),
        _row(
            "Landmarks",
            metrics.get("landmarks_mm_before"),
            metrics.get("landmarks_mm"),
            "{:.2f} mm",
            "Mean distance between where the deformation leads and the moving image's points; less is better.",
        ),
        _row(
            "Pulled landmarks",
            metrics.get("pulled_mm_before"),
            metrics.get("pulled_mm"),
            "{:.2f} mm",
            "Mean distance of the landmarks that attract each other: they are no independent judges.",
        ),
        _row(
            "Folding",
            None,
            metrics.get("folding_percent"),
            "{:.3f} %",
            "Voxels where the deformation folds over itself; 0 is best.",
        ),
        _row(
            "Local volume",
            None,
            metrics.get("volume_change_high_percent"),
            f"{metrics.get('volume_change_low_percent', 0):+.0f} … {{:+.0f}} %",
            "How much the deformation squeezes and stretches in 9 of 10 places; less is smoother.",
        ),
        _row("Largest shift", None, metrics.get("displacement_max_mm"), "{:.1f} mm", "Beyond the linear alignment."),
        _row(
            "Mean shift",
            None,
            metrics.get("displacement_mean_mm"),
            "{:.1f} mm",
            "Beyond the linear alignment, inside the foreground.",
        ),
    ]
    return [row for row in rows if row["now"]]


def _row(name: str, before: Any, now: Any, form: str, hint: str) -> dict[str, str]:
    def text(value: Any) -> str:
        return "" if value is None or value != value else form.format(value)

    return {"name": name, "before": text(before), "now": text(now), "hint": hint}
