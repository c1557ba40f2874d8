"""Scans of any kind of file: what a header names and declares."""

import gzip
import json
import subprocess
import sys
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from qnet.dataloaders.finding import find_scans
from qnet.dataloaders.reading import affine_at, check_header, content_sha256, read_image
from qnet.util.base.errors import InputError
from qnet.util.base.root import ROOT
from tests.kinds import KINDS


@pytest.mark.parametrize(("ending", "field"), [("mhd", "ElementDataFile ="), ("nhdr", "data file:")])
@pytest.mark.parametrize("name", ["", ".", "..", "../a.raw", "/etc/passwd", "LIST", "a%03d.raw", "missing.raw", "a\0b"])
def test_a_file_of_values_that_is_none_beside_it_is_refused_in_one_line(ending, field, name, tmp_path):
    path = tmp_path / f"scan.{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4, 5), np.int16)), path)
    assert read_image(path).GetSize() == (5, 4, 3)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(f"{f'{field} {name}' if line.startswith(field) else line}\n" for line in lines), encoding="utf-8")
    for reader in (read_image, check_header, affine_at):
        with pytest.raises(InputError) as caught:
            reader(path)
        assert "\n" not in str(caught.value)
    assert next(iter(find_scans(tmp_path).names)) == path
    if name != "missing.raw":
        assert content_sha256(path)


def test_denormal_numbers_in_a_header_make_itk_print_nothing(tmp_path, capfd):
    affine = np.diag([2.0, 2, 5, 1])
    affine[0, 1] = -1e-310
    nibabel.save(nibabel.Nifti2Image(np.ones((3, 4, 5), np.int16), affine), tmp_path / "scan.nii")
    assert nibabel.load(tmp_path / "scan.nii").affine[0, 1] == -1e-310
    assert read_image(tmp_path / "scan.nii").GetSpacing() == (2, 2, 5)
    assert capfd.readouterr() == ("", "")


MEASURE = """
import json, resource, sys, time
from pathlib import Path
from qnet.dataloaders.reading import check_header, read_image
from qnet.util.base.errors import InputError
def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
found = {}
for path in map(Path, sys.argv[1:]):
    before, start = peak_mb(), time.process_time()
    for reader in (check_header, read_image):
        try:
            reader(path)
            refused = False
        except InputError:
            refused = True
    found[path.name] = refused, time.process_time() - start, peak_mb() - before
print(json.dumps(found))
"""
NRRD = ("NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 30000 30000 1\nendian: little\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nencoding: {}\n{}\n")
META = ("ObjectType = Image\nNDims = 3\nBinaryData = {}\nCompressedData = {}\nElementSpacing = 1 1 1\nDimSize = 30000 30000 1\n"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n")


@pytest.mark.whole
def test_a_small_file_that_declares_30000_by_30000_voxels_costs_little_in_every_reader(tmp_path):
    zeros = bytes(1_000_000)
    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        header = kind()
        header.set_data_shape((30000, 30000, 1))
        header["sform_code"], header["vox_offset"] = 1, kind.sizeof_hdr + 4
        header["srow_x"][0] = header["srow_y"][1] = header["srow_z"][2] = 1
        content = header.binaryblock + bytes(4) + zeros
        (tmp_path / f"{kind.__name__}.nii").write_bytes(content)
        (tmp_path / f"{kind.__name__}.nii.gz").write_bytes(gzip.compress(content))
    for name, content in (
            ("raw.nrrd", NRRD.format("raw", "").encode() + zeros),
            ("gz.nrrd", NRRD.format("gzip", "").encode() + gzip.compress(zeros)),
            ("text.nrrd", NRRD.format("ascii", "").encode() + b"1 2 3"),
            ("hex.nrrd", NRRD.format("hex", "").encode() + b"00ff"),
            ("detached.nhdr", NRRD.format("raw", "data file: values.bin").encode()), ("values.bin", zeros),
            ("raw.mha", META.format("True", "False").encode() + zeros),
            ("text.mha", META.format("False", "False").encode() + b"1 2 3"),
            ("packed.mha", META.format("True", "True").encode() + zlib.compress(zeros))):
        (tmp_path / name).write_bytes(content)
    for kind in KINDS:
        if "vast" in kind:
            KINDS[kind].write(tmp_path / kind)
    paths = [path for path in sorted(tmp_path.iterdir()) if path.name != "values.bin"]
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, paths)], cwd=ROOT, capture_output=True, encoding="utf-8",
                          env={"PYTHONPATH": str(ROOT)}, check=True)
    found = json.loads(done.stdout)
    assert found.keys() == {path.name for path in paths} and len(found) == 16
    for name, (refused, seconds, megabytes) in found.items():
        assert refused and seconds < 2 and megabytes < 300, (name, seconds, megabytes)
