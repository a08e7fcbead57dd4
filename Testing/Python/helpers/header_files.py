"""Images whose headers are made to say something odd, and the check of what is read of them."""

from __future__ import annotations

import nibabel
import numpy as np
from imaging_examples import affine

MATRIX = affine(25, (1, 2, 3), (31.0, -47.0, 12.5), (-1.5, 2.0, 3.0))
ARRAY = np.random.default_rng(5).integers(-500, 500, (7, 6, 5)).astype(np.int16)


def nifti_file(path, *, sform=MATRIX, qform=None, kind=nibabel.Nifti1Image, unit="mm", **fields):
    """A NIfTI file with these two matrices (None: code 0) and header fields changed byte by byte."""
    nibabel.save(kind(ARRAY, np.eye(4)), path)
    raw = bytearray(path.read_bytes())
    size = kind.header_class.sizeof_hdr
    header = kind.header_class(bytes(raw[:size]))
    header.set_xyzt_units(unit)
    header["pixdim"][1:4] = (1.5, 2, 3)
    header.set_sform(sform, 0 if sform is None else 2)
    header.set_qform(qform, 0 if qform is None else 1)
    for name, value in fields.items():
        header[name] = value
    raw[:size] = header.binaryblock
    path.write_bytes(bytes(raw))
    return path


def check(volume, matrix=MATRIX, warned=None):
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.ijk_to_ras, matrix, rtol=1e-5, atol=1e-4)
    text = " ".join(volume.warnings)
    assert (text == "") if warned is None else (warned in text), text
