"""Text files: in which encoding they are, found in one pass over their bytes, and their lines.

Clean UTF-8 asks for nothing. UTF-16 tells by its marks. A file that is neither, and has no whole UTF-8 letter in it, is in an encoding of
an older program, which is guessed and told. A file of UTF-8 with a few broken bytes is damaged: its line is named.
"""

import codecs
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from charset_normalizer import from_bytes

from polarity.data.source import readable
from polarity.errors import DataError

BOM = codecs.BOM_UTF8
CHUNK_BYTES = 4 << 20
GUESS_BYTES = 200_000
"""Bytes of lines with foreign letters that an encoding is guessed from."""
WESTERN = frozenset(  # the second line: quotes, dashes, dots, the euro, and others beyond Latin-1
    "ñÑáéíóúÁÉÍÓÚüÜàèìòùâêîôûÀÈÌÒÙÂÊÎÔÛçÇ¿¡£°·«»\xa0\xb4\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u2022\u20ac"
)
"""Letters that Windows writes (cp1252) in Filipino, Spanish, English and French texts: a few of them are too little for a statistic."""
MAGIC = {
    b"\x1f\x8b": "is compressed by gzip: unpack it (gunzip)",
    b"BZh": "is compressed by bzip2: unpack it (bunzip2)",
    b"\xfd7zXZ": "is compressed by xz: unpack it (unxz)",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd: unpack it (unzstd)",
    b"PK\x03\x04": "is a zip file: unpack it; if it is an Excel workbook, let its name end in .xlsx",
    b"PAR1": "is a Parquet file: let its name end in .parquet",
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook (.xls), or one with a password: save it as .xlsx or CSV without a password",
    b"%PDF": "is a PDF: save the table as CSV",
}


@dataclass(frozen=True)
class TextFile:
    """A text file and the encoding it is read in; `note` says so where it is not UTF-8, else it is None."""

    path: Path
    encoding: str
    note: str | None

    def open(self) -> TextIO:
        """Opened with its line ends as they are."""
        return self.path.open(encoding=self.encoding, newline="")


def text_file(name: str, path: Path) -> TextFile:
    """Find a file's encoding. Raises DataError for what is no text: compressed and binary files, NUL bytes, damaged UTF-8."""
    with readable(name):
        with path.open("rb") as file:
            head = file.read(1024)
        for magic, what in MAGIC.items():
            if head.startswith(magic):
                raise DataError(f"{name}: {what}")
        wide = _wide(head)
        if wide is not None:
            return _checked(name, path, wide, "")
        if _is_utf8(name, path):
            return TextFile(path, "utf-8-sig", None)
        return _checked(name, path, _guess(name, path), ", a guess from its letters")


def _wide(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by their marks, or UTF-16 without one, by the zero bytes of plain letters."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    half = len(head) // 2
    if half > 8 and head[1::2].count(0) > 0.9 * half and head[0::2].count(0) < 0.1 * half:
        return "utf-16-le"
    return "utf-16-be" if half > 8 and head[0::2].count(0) > 0.9 * half and head[1::2].count(0) < 0.1 * half else None


def _is_utf8(name: str, path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK_BYTES)
            if b"\0" in chunk:
                raise DataError(_nul(name, path))
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError:
                return False
            if not chunk:
                return True


def _nul(name: str, path: Path) -> str:
    line = 1
    with path.open("rb") as file:
        for raw in file:
            if b"\0" in raw:
                return f"{name}, line {line}: holds a NUL byte (byte {raw.index(0) + 1} of the line): remove it"
            line += raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n")
    return f"{name}: holds a NUL byte: remove it"


def _guess(name: str, path: Path) -> str:
    """The encoding of a file that is not UTF-8. Raises DataError naming the line where the file is damaged UTF-8, or no guess is good."""
    line, fault, foreign, whole_letters = 1, "", bytearray(), 0
    with path.open("rb") as file:
        for raw in file:
            if not raw.isascii():
                try:
                    raw.decode("utf-8")
                    whole_letters += 1
                except UnicodeDecodeError as error:
                    fault = fault or _not_utf8(name, line, error)
                    foreign += raw if len(foreign) < GUESS_BYTES else b""
            if b"\0" in raw:
                raise DataError(_nul(name, path))
            line += raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n")
    if whole_letters:
        raise DataError(f"{fault} (other lines are UTF-8)")
    sample = bytes(foreign)
    if {letter for letter in sample.decode("cp1252", errors="replace") if not letter.isascii()} <= WESTERN:
        return "cp1252"
    best = from_bytes(sample).best()
    if best is None or best.encoding.startswith("utf"):
        raise DataError(fault)
    return best.encoding


def _not_utf8(name: str, line: int, error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return f"{name}, line {line}: not UTF-8: byte 0x{byte:02x} at byte {error.start + 1} of the line: save the file as UTF-8"


def _checked(name: str, path: Path, encoding: str, how: str) -> TextFile:
    """The file in an encoding other than UTF-8, if all of it can be read so."""
    try:
        with path.open(encoding=encoding, newline="") as file:
            while text := file.read(CHUNK_BYTES):
                if "\0" in text:
                    raise DataError(f"{name}: holds a NUL character (read as {encoding}): remove it, and save the file as UTF-8")
                text.encode("utf-8")
    except UnicodeError as error:
        raise DataError(f"{name}: is not UTF-8, nor {encoding} throughout ({error}): save the file as UTF-8") from error
    return TextFile(path, encoding, f"{name}: not UTF-8: read as {encoding}{how}; if letters look wrong, save the file as UTF-8")
