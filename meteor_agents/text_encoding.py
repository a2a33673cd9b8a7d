"""How a text file from outside is encoded: UTF-8, or UTF-16 that says so; everything else is refused, with what to do."""

from __future__ import annotations

import codecs

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

LONGEST_CELL = 100_000_000
"""Characters. Python's own limit of 131,072 is less than a long document."""


def encoding_of(beginning: bytes) -> str:
    """The encoding that a file's byte order mark names (its first four bytes are enough); UTF-8 when it has none.

    >>> encoding_of("id,question".encode("utf-16"))
    'utf-16'
    """
    return next((encoding for mark, encoding in _MARKS if beginning.startswith(mark)), "utf-8")


def decoded(content: bytes) -> str:
    """`content` as text, without its byte order mark. Raises `ValueError` with the line and what to do."""
    try:
        return content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        raise ValueError(undecodable(error, content.count(b"\n", 0, error.start) + 1)) from error


def undecodable(error: UnicodeDecodeError, line: int) -> str:
    """What is wrong with a file that could not be decoded, and what to do, in one sentence."""
    if error.encoding.startswith(("utf-16", "utf-32")):
        return f"line {line}: is not readable as {error.encoding.upper()}, which its first bytes announce; save it as UTF-8"
    byte = error.object[error.start]
    return (
        f"line {line}: is not UTF-8 text (byte 0x{byte:02x}); save the file as UTF-8. If it is Latin-1 or Windows-1252, "
        f"this converts it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW_FILE"
    )
