"""Positions, grids and sampling, by hand."""

import pytest
import torch

from qnet.models.sampling import MIN_CELLS, WorkingGrid, bounds_of, grid_mm, mapped, margin_box, sample, spacing_over

CPU = torch.device("cpu")


@pytest.mark.parametrize(("extent", "finest", "n_points", "expected"), [
    ((10, 10, 10), (0.1, 0.1, 0.1), 1000, (1, 1, 1)),
    ((10, 20, 40), (0.1, 0.1, 0.1), 1000, (2, 2, 2)),
    ((10, 10, 10), (5, 0.1, 0.1), 200, (5, 1, 1)),          # two slices; the others share out 100 points each
    ((10, 10, 10), (5, 2, 0.1), 100, (5, 2, 1)),
    ((10, 10, 10), (5, 4, 3), 1000, (5, 4, 3))])            # no voxels for more points
def test_the_spacing_is_equal_but_nowhere_finer_than_the_voxels_allow(extent, finest, n_points, expected):
    extent, finest, expected = (torch.tensor(values, dtype=torch.float64) for values in (extent, finest, expected))
    torch.testing.assert_close(spacing_over(extent, finest, n_points), expected)
    torch.testing.assert_close(spacing_over(extent / 20, finest / 20, n_points), expected / 20)


def test_a_working_grid_has_whole_cells_around_the_middle_of_its_box():
    low, high = torch.tensor([10.0, 0.0, 0.0]), torch.tensor([34.0, 48.0, 96.0])
    grid = WorkingGrid(low, high, (1.0, 1.0, 1.0), 24 * 48 * 96 // 8, 0.4, 4, CPU)
    assert grid.shape == (12, 24, 48) and grid.spacing.tolist() == pytest.approx([2, 2, 2])
    assert grid.points.shape == (3, *grid.shape)
    torch.testing.assert_close((grid.points[:, 0, 0, 0] + grid.points[:, -1, -1, -1]) / 2, (low + high) / 2)
    thin = WorkingGrid(low, torch.tensor([11.0, 48.0, 96.0]), (1.0, 1.0, 1.0), 10_000, 0.4, 4, CPU)
    assert thin.shape[0] == 4 * MIN_CELLS


def test_trilinear_values_at_voxel_indices():
    maps = torch.arange(8.0).view(1, 2, 2, 2)
    middle, corner, outside = ((0.5, 0.5, 0.5), (1.0, 0.0, 1.0), (0.0, 0.0, 3.0))
    index = torch.tensor([middle, corner, outside]).T.reshape(3, 1, 1, 3)
    assert sample(maps, index).flatten().tolist() == pytest.approx([3.5, 5.0, 0.0])
    assert sample(maps, index, "border").flatten().tolist() == pytest.approx([3.5, 5.0, 1.0])


def test_positions_are_index_times_spacing_and_are_mapped():
    points = grid_mm((1, 2, 3), (5.0, 2.0, 1.0))
    assert points.shape == (3, 1, 2, 3) and points[:, 0, 1, 2].tolist() == [0, 2, 2]
    affine = torch.tensor([[0.0, 1, 0, 7], [1, 0, 0, 0], [0, 0, 3, -1]])
    assert mapped(affine, points)[:, 0, 1, 2].tolist() == [9, 0, 5]


def test_bounds_and_a_margin_that_stays_within_the_scan():
    mask = torch.zeros(4, 10, 10, dtype=torch.bool)
    mask[1, 3:5, 0:9] = True
    mask[2, 6, 8] = True
    assert bounds_of(mask) == [(1, 3), (3, 7), (0, 9)]
    assert bounds_of(mask & False) is None
    assert margin_box(bounds_of(mask), (5.0, 1.0, 1.0), (2.0, 2.0, 2.0), mask.shape) == (slice(0, 4), slice(1, 9), slice(0, 10))
