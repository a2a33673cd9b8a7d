"""Rows of CSV files as spreadsheets and pandas write them: separated by commas, semicolons or tabs."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from meteor_agents.data.row import Row
from meteor_agents.errors import QuestionsError
from meteor_agents.safe_text import clean, printable
from meteor_agents.text_encoding import LONGEST_CELL, encoding_of

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def csv_rows(path: Path) -> Iterator[Row]:
    """The rows under a header line. Raises `QuestionsError` naming the line.

    The header tells which separator the file uses. Rows without any value are skipped, and so are columns without a name,
    such as the index that pandas writes and the empty columns at the end of a sheet.
    """
    with path.open("rb") as file:
        encoding = encoding_of(file.read(4))
    csv.field_size_limit(LONGEST_CELL)
    with path.open(encoding=encoding, newline="") as lines:
        header = next((line for line in lines if line.strip()), "")
        separator = separator_of(header)
        lines.seek(0)
        reader = csv.reader(lines, strict=True, delimiter=separator)
        place = "line 1"
        try:
            names: list[str] | None = None
            for cells in reader:
                if names is None:
                    if any(cell.strip() for cell in cells):
                        names = _names(path, f"line {reader.line_num}", cells)
                elif any(cell.strip() for cell in cells):
                    yield Row(place, _values(path, place, names, cells, separator))
                place = f"line {reader.line_num + 1}"
        except csv.Error as error:
            hint = " (a quotation mark that is not closed?)" if "end of data" in str(error) else ""
            raise QuestionsError(f"{path}, {place}: not CSV: {error}{hint}") from error


def separator_of(header: str) -> str:
    """The separator that the header line uses most often outside quotation marks; the comma if none."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=bare.count)


def _names(path: Path, place: str, cells: Sequence[str]) -> list[str]:
    names = [clean(cell.strip()) for cell in cells]
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise QuestionsError(f"{path}, {place}: two columns are named {printable(twice)!r}; rename or remove one of them")
    return names


def _values(path: Path, place: str, names: Sequence[str], cells: Sequence[str], separator: str) -> dict[str, str | None]:
    if any(cell.strip() for cell in cells[len(names) :]):
        raise QuestionsError(
            f"{path}, {place}: more fields than the header has ({len(cells)} instead of {len(names)}, separated by "
            f"{SEPARATORS[separator]}); put quotation marks around a value that holds one"
        )
    padded = [*cells, *[None] * (len(names) - len(cells))]
    return {name: cell and clean(cell) for name, cell in zip(names, padded, strict=False) if name}
