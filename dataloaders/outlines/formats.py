"""The formats that outlines are written in, beside the label map as NIfTI, which is always there."""

NIFTI, SEG_NRRD, DICOM_SEG, RTSTRUCT, STL = "nifti", "seg.nrrd", "dicom-seg", "rtstruct", "stl"
FORMATS = (NIFTI, SEG_NRRD, DICOM_SEG, RTSTRUCT, STL)
ENDING = {SEG_NRRD: ".seg.nrrd", DICOM_SEG: "_seg.dcm", RTSTRUCT: "_rtstruct.dcm"}      # STL has a file for each class
