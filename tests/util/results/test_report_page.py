"""util/results/report_page.py: the maps that are laid over a scan. What the page shows: test_report.py, test_scan_report.py."""

import numpy as np
import pytest

from qnet.util.base.errors import InputError
from qnet.util.results.report_page import map_if_there
from tests.toy import write


def test_a_map_is_laid_over_its_scan_if_it_is_there_and_on_its_grid(tmp_path):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "map.nii.gz"
    assert map_if_there(path, values.shape) is None
    assert map_if_there(tmp_path / f"{'long' * 80}.nii.gz", values.shape) is None
    write(path, values)
    for kind in (None, np.uint8):
        assert (map_if_there(path, values.shape, kind) == values).all()
    with pytest.raises(InputError, match=r": uint8 of shape \(2, 3, 4\), expected on the grid of its scan, \(2, 3, 5\)"):
        map_if_there(path, (2, 3, 5))
    with pytest.raises(InputError, match=r"expected int16 on the grid of its scan, \(2, 3, 4\)"):
        map_if_there(path, values.shape, np.int16)
