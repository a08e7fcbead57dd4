"""What the user knows of a pair, as settings of its registration. numpy only, so that it runs in Slicer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hyperreg.imaging.volume import Volume
from hyperreg.registration.landmarks import Landmarks

# The label maps among the constraints, by their names.
MAPS = ("fixed_mask", "moving_mask", "rigid", "regions")


@dataclass(frozen=True, eq=False)
class Constraints:
    """All that is set besides lambda and the model's own hyperparameters; it holds for every lambda.

    fixed_mask, moving_mask: label maps in the space of either image, on any grid, not 0 where the image counts for the
    similarity: a resection, a lesion or metal is left out by 0. The field there is carried on from its surroundings.
    landmarks: pairs of points that pull at each other, see `Landmarks`.
    rigid, rigid_values: a label map in the fixed image's space, and its labels that move as one rigid body each.
    regions, region_lambdas: a label map in the fixed image's space, and lambdas of their own for some of its labels.
    """

    fixed_mask: Volume | None = None
    moving_mask: Volume | None = None
    landmarks: Landmarks | None = None
    rigid: Volume | None = None
    rigid_values: tuple[int, ...] = ()
    regions: Volume | None = None
    region_lambdas: Mapping[int, float] = field(default_factory=dict)

    def same_masks(self, other: Constraints) -> bool:
        """Whether the masks are the same objects: comparing their voxels would cost more than it saves."""
        return self.fixed_mask is other.fixed_mask and self.moving_mask is other.moving_mask

    def same_as(self, other: Constraints) -> bool:
        """Whether nothing differs; label maps are the same if they are the same objects."""
        pulls = other.landmarks is None if self.landmarks is None else self.landmarks.same_as(other.landmarks)
        return (
            pulls
            and all(getattr(self, name) is getattr(other, name) for name in MAPS)
            and (self.rigid_values, self.region_lambdas) == (other.rigid_values, other.region_lambdas)
        )

    @property
    def forces(self) -> list[str]:
        """In words, what of this only the solver can take into account."""
        named = {
            "masks": self.fixed_mask is not None or self.moving_mask is not None,
            "landmarks that pull": self.landmarks is not None,
            "rigid regions": self.rigid is not None,
        }
        return [name for name, given in named.items() if given]
