"""Scans lie in napari as in the patient, whatever the axes of the file, and outlines go back to where they were drawn."""

from itertools import permutations, product

import nibabel
import numpy as np
import pytest

from qnet.util.clients.napari.voxels import read, write
from tests.dataloaders.outlines.made import PLACES
from tests.kinds import SPACING, grid

SHAPE = (5, 7, 4)
AXES = ["".join(one[k] for one, k in zip(order, ends, strict=True)) for order in permutations(("LR", "PA", "SI"))
        for ends in product((0, 1), repeat=3)]


@pytest.mark.parametrize("affine", [*(grid(shape=SHAPE, axes=axes) for axes in AXES), *PLACES.values()], ids=[*AXES, *PLACES])
def test_every_order_of_axes(affine):
    voxels = np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8)
    shown, of_scan = read(nibabel.Nifti1Image(voxels, affine).to_bytes())
    places = np.moveaxis(np.indices(SHAPE), 0, -1) @ affine[:3, :3].T           # mm to the right, to the front, upwards
    right, front, up = (np.diff(of_scan.shown(places[..., k]), axis=2 - k) for k in range(3))
    assert (right < 0).all() and (front < 0).all() and (up > 0).all()
    again, of_labels = read(write(shown, of_scan))
    image = nibabel.Nifti1Image.from_bytes(write(shown, of_scan))
    np.testing.assert_array_equal(np.asarray(image.dataobj), voxels)
    np.testing.assert_array_equal(again, shown)
    assert np.allclose(image.affine, affine, atol=1e-4) and of_labels.shape == SHAPE and image.get_data_dtype() == np.uint8


def test_the_scale_is_that_of_the_axes_that_are_shown():
    assert len({*SPACING}) > 1
    for axes in AXES:
        affine = grid(shape=SHAPE, axes=axes)
        _, of_scan = read(nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), affine).to_bytes())
        by_axis = dict(zip(axes, np.linalg.norm(affine[:3, :3], axis=0), strict=True))
        expected = [next(by_axis[one] for one in pair if one in by_axis) for pair in ("SI", "PA", "LR")]
        assert np.allclose(of_scan.scale, expected)
