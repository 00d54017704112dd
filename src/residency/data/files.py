"""Local files as bytes and as text: compression up to a bound, and the encoding that a file is found to have."""

from __future__ import annotations

import codecs
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from residency.errors import UserError

BOMB_BYTES, BOMB_RATIO = 1 << 30, 200  # a compressed file that passes both is refused
PACKINGS = {".gz": "gzip", ".zst": "zstd"}
# Of encodings that fit equally well the first is taken; short texts fit many.
ENCODINGS = (
    *("cp1252", "cp1250", "cp1251", "koi8_r", "iso8859_2", "cp932", "euc_jp", "gb18030", "big5", "cp949"),
    *("cp1253", "cp1254", "cp1255", "cp1256", "mac_roman", "cp850", "cp437"),
)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Encoding:
    """A codec's name; `damaged` where some bytes are no text in it; `found` where the user should be told."""

    name: str
    damaged: bool = False
    found: bool = False


@dataclass(frozen=True)
class File:
    """A local file, what it is compressed with (or nothing), and the suffix of what it holds."""

    path: Path
    packing: str
    suffix: str

    @classmethod
    def of(cls, path: Path) -> File:
        """The file at a path, by its suffixes."""
        packing = PACKINGS.get(path.suffix.lower(), "")
        return cls(path, packing, (Path(path.stem) if packing else path).suffix.lower())

    def open(self) -> IO[bytes]:
        """The bytes that the file holds, uncompressed."""
        if not self.packing:
            return self.path.open("rb")
        import pyarrow

        unpacked = pyarrow.CompressedInputStream(pyarrow.OSFile(str(self.path)), self.packing)
        return io.BufferedReader(_Bounded(unpacked, self.path), 1 << 20)

    def text(self, encoding: Encoding, newline: str | None = "") -> IO[str]:
        """The file as text; where it is damaged, each byte that is none becomes a surrogate."""
        errors = "surrogateescape" if encoding.damaged else "strict"
        return io.TextIOWrapper(self.open(), encoding.name, errors, newline)


class _Bounded(io.RawIOBase):
    """A stream that refuses to grow far beyond its compressed size."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream, self._path = stream, path
        self._packed, self._size = path.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = int(self._stream.readinto(buffer))
        self._size += count
        refuse_bomb(self._path, self._packed, self._size)
        return count


def refuse_bomb(path: Path, packed: int, size: int) -> None:
    """Nothing, or a UserError for a compressed file of `packed` bytes that holds more than any honest one would."""
    if size > BOMB_BYTES and size > BOMB_RATIO * packed:
        raise UserError(
            f"data.source {path}: {packed:,} bytes that unpack to more than {size:,}",
            f"at most {BOMB_BYTES:,} bytes, or {BOMB_RATIO} times the compressed size",
            "unpack it yourself if you trust it",
        )


def encoding_of(file: File, given: str | None = None) -> Encoding:
    """The encoding of a text file: the given one, or by its byte order mark, or UTF-8, or the likeliest.

    Raises:
        UserError: the given encoding is unknown or does not fit, or none fits.
    """
    if given is not None:
        return _given_encoding(file, given)
    with file.open() as opened:
        head = opened.read(1 << 16)
    marked = next((name for mark, name in _BOMS if head.startswith(mark)), None) or _unmarked_utf16(head)
    if marked and (marked != "utf-8-sig" or _decodes(file, marked)):
        return Encoding(marked, found=marked != "utf-8-sig")
    if _decodes(file, "utf-8"):
        return Encoding("utf-8")
    sample = _sample(file)
    text = sample.decode("utf-8", "surrogateescape")
    damaged = len(re.findall(r"[\udc80-\udcff]", text))
    # Letters of another encoding seldom form a UTF-8 sequence: where most do, the rest is damage.
    if marked or sum(not c.isascii() for c in text) >= 2 * damaged:
        return Encoding("utf-8-sig", damaged=True)
    return Encoding(_likeliest(file, sample), found=True)


def _given_encoding(file: File, name: str) -> Encoding:
    try:
        known = codecs.lookup(name)._is_text_encoding
    except LookupError:
        known = False
    if not known:
        raise UserError(f"data.encoding: unknown encoding {name}", "for example utf-8, utf-16, cp1252 or shift_jis")
    if not _decodes(file, name):
        raise UserError(f"data.source {file.path}: is no {name} text", fix="set data.encoding to another one")
    return Encoding("utf-8-sig" if codecs.lookup(name).name == "utf-8" else name)


def _unmarked_utf16(head: bytes) -> str | None:
    """UTF-16 without a mark: Latin letters in it have a NUL at every second byte."""
    if head.count(0) * 4 < len(head):
        return None
    return "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"


def _decodes(file: File, name: str) -> bool:
    decoder = codecs.getincrementaldecoder(name)()
    with file.open() as opened:
        try:
            while block := opened.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeError:
            return False
    return True


def _sample(file: File) -> bytes:
    """Different lines with bytes beyond ASCII, 64 KiB of them at most."""
    lines: dict[bytes, None] = {}
    size = 0
    with file.open() as opened:
        for line in iter(lambda: opened.readline(1 << 14), b""):
            if not line.isascii() and line not in lines:
                lines[line] = None
                size += len(line)
            if size > 1 << 16:
                break
    return b"".join(lines)


def _likeliest(file: File, sample: bytes) -> str:
    from charset_normalizer import from_bytes

    found = list(from_bytes(sample, cp_isolation=list(ENCODINGS)))
    least = min((match.chaos for match in found), default=0.0)
    names = {name for match in found if match.chaos <= least + 0.02 for name in match.could_be_from_charset}
    likely = next((name for name in ENCODINGS if name in names and _decodes(file, name)), None)
    if likely is None:
        raise UserError(
            f"data.source {file.path}: is no text in any encoding that Residency knows",
            "UTF-8 text",
            "set data.encoding if you know it",
        )
    return likely


def told(file: File, encoding: Encoding, delimiter: str = "") -> list[str]:
    """A note on what was found out of a text file, where it is not what one would expect."""
    words = f" as {encoding.name}" if encoding.found else ""
    words += f" with {'tab' if delimiter == chr(9) else delimiter}" if delimiter else ""
    return [f"{file.path.name} read{words}"] if words else []
