"""Open a picture with Pillow: accepted formats, a bound on pixels, errors that name the file."""

import contextlib
import struct
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

from PIL import Image

from segr1_jax.errors import UserError

# Pillow identifies a file by its content. Without this list an EPS named .jpg starts Ghostscript.
# Its JPEG reader opens MPO too.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# Above this number of pixels Pillow warns of a decompression bomb. A picture of this size has
# 256 MiB of RGB values. Opening it takes 12 bytes per pixel, 1.1 GB, without its mask and overlay.
MOST_PIXELS = 1024**3 // 4 // 3
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_HEIC_SUFFIXES = (".heic", ".heif")
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


@contextlib.contextmanager
def opened(path: Path, kind: str, content: BufferedIOBase | None = None) -> Iterator[Image.Image]:
    """Open the picture at `path`, or in `content`, and read its header; Pillow decodes it on use.

    Use the block for Pillow calls only: errors that they raise there become a UserError too.

    Raises:
        UserError: no such file, another format, more than MOST_PIXELS, damaged content.
    """
    try:
        with Image.open(path if content is None else content, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise _too_large(path, kind, f"{image.width} x {image.height}")
            yield image
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, kind, str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise _other_format(path, kind, content) from error
    except _UNREADABLE as error:
        missing = isinstance(error, FileNotFoundError)
        got = "no such file" if missing else f"{type(error).__name__}: {error}"
        raise UserError(
            str(path),
            expected=f"a readable {kind} file",
            got=got,
            remedy="replace the file or leave it out",
        ) from error


def picture_suffixes() -> set[str]:
    """Return the suffixes of picture files, in lower case.

    These include formats that `opened` rejects: such a file is reported instead of overlooked.
    """
    return {*Image.registered_extensions(), *_HEIC_SUFFIXES}


def _too_large(path: Path, kind: str, got: str) -> UserError:
    return UserError(
        str(path),
        expected=f"a picture of at most {MOST_PIXELS / 1e6:.0f} megapixels as {kind}",
        got=got,
        remedy="scale it down or leave it out",
    )


def _other_format(path: Path, kind: str, content: BufferedIOBase | None) -> UserError:
    if content is None:
        with open(path, "rb") as file:
            head = file.read(12)
    else:
        content.seek(0)
        head = content.read(12)
    heic = head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS
    return UserError(
        str(path),
        expected=f"a readable {kind} file ({', '.join(FORMATS)})",
        got="a HEIC picture" if heic else "another format or damaged content",
        remedy="convert it to JPEG or PNG" if heic else "convert or replace it, or leave it out",
    )
