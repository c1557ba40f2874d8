"""Tables as text, in Markdown, and as CSV files, which a spreadsheet opens without computing anything."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from qnet.util.base.files import replacing
from qnet.util.base.inputs import expect_file

FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")      # what makes a cell a formula; the last four are wide ones
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a text table. The first column is aligned to the left, the others to the right."""
    widths = [max(len(row[k]) for row in [header, *rows]) for k in range(len(header))]
    lines = ["  ".join(cell.ljust(width) if k == 0 else cell.rjust(width)
                       for k, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in [header, *rows]]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown. The first column is aligned to the left, the others to the right."""
    widths = [max(2, *(len(row[k]) for row in [header, *rows])) for k in range(len(header))]
    rule = ["-" * width if k == 0 else "-" * (width - 1) + ":" for k, width in enumerate(widths)]
    lines = [[cell.ljust(width) if k == 0 else cell.rjust(width) for k, (cell, width) in enumerate(zip(row, widths, strict=True))]
             for row in [header, rule, *rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def significant(value: float, digits: int = 4) -> float:
    """Return a number rounded to significant digits: what is above 0 stays so."""
    return float(f"{value:.{digits}g}")


def write_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: Path, *, tabs: bool = False) -> None:
    """Write rows as a CSV file, whole or not at all. Each row maps columns to values. `read_rows` returns the same texts.

    Args:
        tabs: between the cells, in place of commas.
    """
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        cells = [columns, *([row.get(column) for column in columns] for row in rows)]
        write_cells(cells, file, **({"lineterminator": "\n", "delimiter": "\t"} if tabs else {}))


def write_cells(rows: Iterable[Iterable[Any]], file: TextIO, lineterminator: str = "\r\n", delimiter: str = ",") -> None:
    """Write rows of cells as CSV. Text that a spreadsheet would compute gets a ' in front."""
    writer = csv.writer(file, lineterminator=lineterminator, delimiter=delimiter)
    writer.writerows([_as_text(cell) for cell in row] for row in rows)


def read_rows(path: Path) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Return the columns and the rows of a CSV file, with its texts as they were given to `write_rows`.

    A row that is too short has None.

    Raises:
        InputError: the file cannot be read.
        ValueError, csv.Error: it is no CSV file in UTF-8.
    """
    with expect_file(path).open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        columns = tuple(map(as_given, next(reader, ())))
        return columns, [
            dict.fromkeys(columns) | dict(zip(columns, map(as_given, row), strict=False)) for row in reader if row]


def _as_text(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value) else value


def as_given(cell: str) -> str:
    """Return the text that a cell was written for."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
