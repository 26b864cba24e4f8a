"""Open picture files of others: a closed list of formats, and a bound on pixels before any is decoded."""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from segr1_jax.errors import UserError

# Pillow picks a decoder by content: an EPS named .jpg would start Ghostscript. JPEG includes MPO.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
NAMED = "PNG, JPEG, WebP, BMP, TIFF, GIF or PPM"
# Where Pillow begins to warn. A picture this large takes .27 GB as RGB, and several times that on its way.
MAX_PIXELS = 89_478_485
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1", b"avif")
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@contextlib.contextmanager
def opened(path: Path, kind: str, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open a picture for the block, in which it is decoded too.

    `content` is a picture that lies inside another file; `path` then only says where. Raises
    UserError, which names the file, for anything wrong with it in the block.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=FORMATS) as image:
            _check_size(path, image)
            yield image
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise _foreign(path, kind, content) from error
    except _UNREADABLE as error:
        missing = isinstance(error, FileNotFoundError)
        got = "no such file" if missing else f"{type(error).__name__}: {error}"
        remedy = "replace the file or leave it out"
        expected = f"a readable {kind} file"
        raise UserError(str(path), expected=expected, got=got, remedy=remedy) from error


def suffixes() -> set[str]:
    """The suffixes, in small letters, of files that `opened` reads."""
    return {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}


def _check_size(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(
            str(path),
            expected=f"at most {MAX_PIXELS / 1e6:.0f} megapixels",
            got=f"{width}x{height}, {width * height / 1e6:.0f} megapixels",
            remedy="scale it down or leave it out",
        )


def _foreign(path: Path, kind: str, content: bytes | None) -> UserError:
    head = content[:16] if content is not None else _head(path)
    heif = head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS
    return UserError(
        str(path),
        expected=f"a readable {kind} file: {NAMED}",
        got="an HEIC or AVIF picture" if heif else "none of these formats, or a damaged file",
        remedy="convert it to JPEG or PNG" if heif else "replace the file or leave it out",
    )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)
