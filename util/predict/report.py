"""The report of `qnet predict`, made of the scans and of the files that `predict` wrote for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import SimpleITK as sitk

from qnet.dataloaders.nifti import read_affine
from qnet.dataloaders.reading import read_image
from qnet.util.base.errors import InputError
from qnet.util.predict.correction import Correction
from qnet.util.predict.maps import probability_path, registered_path
from qnet.util.predict.request import Query
from qnet.util.results.report_page import Column, Layers, map_if_there
from qnet.util.results.scan_report import NUMBERS, ScanEntry, write_scan_report

MORE = (Column("outlined_ml", "", 4), Column("look_at", ""))


def report_queries(queries: Sequence[Query], rows: Mapping[str, Sequence[Mapping]], names: Mapping[int, str],
                   failures: Sequence[str], path: Path, facts: Mapping[str, str] | None = None,
                   colours: Mapping[int, str] | None = None, plots: Sequence[Mapping[str, str]] = (),
                   correction: Correction | None = None) -> None:
    """Write the report about all queries that are segmented, now or before. There is none if no query is.

    Args:
        queries: all of them.
        rows: of cases.csv, by the query's name.
        names: of the labels, by value.
        failures: a line for each query that could not be segmented.
        path: of the HTML file.
        facts: shown below the title, by name.
        colours, plots, correction: as `write_scan_report` takes them.
    Raises:
        OSError: the file cannot be written.
    """
    done = [query for query in queries if query.name in rows and query.target.is_file()]
    entries, problems = [], list(failures)
    for query in done:
        try:
            entries.append(_entry(query, rows[query.name], names))
        except ValueError as error:      # a cell of cases.csv is no number
            problems.append(f"{query.name}: not shown: {error}")
    if done:
        write_scan_report(entries, names, path, title=f"Outlines of {len(done)} scan{'s' * (len(done) > 1)}", facts=facts,
                          colours=colours, problems=problems, plots=plots,
                          correction=None if correction is None else asdict(correction))


def _entry(query: Query, rows: Sequence[Mapping], names: Mapping[int, str]) -> ScanEntry:
    numbers = {int(row["label"]): {column.key: row[column.key] if column.digits is None else float(row[column.key])
                                   for column in (*NUMBERS, *MORE) if row.get(column.key) not in (None, "")}
               for row in rows if int(row["label"]) in names}
    return ScanEntry(query.name, numbers, partial(read_layers, query.scan, query.target, names))


def read_layers(query: Path, target: Path, names: Mapping[int, str]) -> Layers:
    """Read a query, its label map, and the other maps that there are.

    Args:
        target: the path of its label map.
        names: of the labels, by value.
    Raises:
        InputError: a file cannot be read, or is not on the grid of the query.
    """
    image = sitk.GetArrayFromImage(read_image(query))
    probabilities = {label: values for label, name in names.items()
                     if (values := map_if_there(probability_path(target, name), image.shape)) is not None}
    label_map = map_if_there(target, image.shape)
    if label_map is None:
        raise InputError(f"{target}: no such file")
    return Layers(image, read_affine(target), {"whole": label_map}, probabilities,
                  map_if_there(registered_path(target), image.shape))
