"""DICOM files with several frames (enhanced multi-frame CT, MR, PET): each frame as the file with one slice that it would be.

What a slice's file has in its header, a file with frames has in functional groups, of each frame or shared by all.
"""

from __future__ import annotations

from typing import Any

import pydicom
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import UID, ImplicitVRLittleEndian

MR_IMAGE = UID("1.2.840.10008.5.1.4.1.1.4")
GROUPS = {"ImagePositionPatient": "PlanePositionSequence", "ImageOrientationPatient": "PlaneOrientationSequence",
          "PixelSpacing": "PixelMeasuresSequence", "RescaleSlope": "PixelValueTransformationSequence",
          "RescaleIntercept": "PixelValueTransformationSequence"}     # where a file with frames has what a slice has
NAMES = {"TemporalPositionIdentifier": "TemporalPositionIndex", "TriggerTime": "NominalCardiacTriggerDelayTime",
         "AcquisitionTime": "FrameAcquisitionDateTime", "EchoTime": "EffectiveEchoTime",
         "ImageType": "FrameType"}      # and under what name


def frame_as_slice(head: pydicom.Dataset, shared: pydicom.Dataset, groups: pydicom.Dataset) -> pydicom.Dataset:
    """Return the header of a frame as that of a file with one slice."""
    replaced = (*GROUPS, "PixelData", "NumberOfFrames")
    alone = pydicom.Dataset({one.tag: one for one in head if one.VR != "SQ" and one.keyword not in replaced})
    alone.file_meta = getattr(head, "file_meta", pydicom.dataset.FileMetaDataset())
    for name, sequence in GROUPS.items():
        for source in (groups, shared):
            if source.get(sequence) and source[sequence][0].get(name) is not None:
                setattr(alone, name, source[sequence][0].get(name))
                break
    return alone


def frame_alone(head: pydicom.Dataset, frame: int) -> pydicom.Dataset:
    """Return a file with several frames as the file with one slice that a frame would be."""
    shared = (head.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    alone = frame_as_slice(head, shared, head.PerFrameFunctionalGroupsSequence[frame])
    syntax = UID(str(head.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)))
    n_bytes, n_frames = int(head.Rows) * int(head.Columns) * int(head.BitsAllocated) // 8, int(head.get("NumberOfFrames", 1) or 1)
    alone.PixelData = (encapsulate([get_frame(head.PixelData, frame, number_of_frames=n_frames)]) if syntax.is_encapsulated
                       else head.PixelData[frame * n_bytes:(frame + 1) * n_bytes])
    alone["PixelData"].VR = "OB" if syntax.is_encapsulated or int(head.BitsAllocated) <= 8 else "OW"
    alone["PixelData"].is_undefined_length = syntax.is_encapsulated
    alone.pop("SOPClassUID", None)
    alone.SOPClassUID = MR_IMAGE        # of frames, GDCM would look for groups
    return alone


def said_of_frame(head: pydicom.Dataset, frame: int) -> dict[str, Any]:
    """Return what a file with several frames says of one of them, by the names that the header of a slice has for it."""
    shared = (head.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    own = {one.keyword: one.value for one in head if one.VR != "SQ"}
    found = {**own, **_flat(shared), **_flat(head.PerFrameFunctionalGroupsSequence[frame])}
    return {**found, **{name: found[of_frame] for name, of_frame in NAMES.items() if of_frame in found}}


def _flat(groups: pydicom.Dataset) -> dict[str, Any]:
    """Return what is in a dataset and in the first item of each sequence in it, at any depth, by name."""
    found: dict[str, Any] = {}
    for one in groups:
        found = {**(_flat(one.value[0]) if one.value else {}), **found} if one.VR == "SQ" else {**found, one.keyword: one.value}
    return found
