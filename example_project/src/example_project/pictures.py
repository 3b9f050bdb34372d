"""What people look at: the middle slices of one scan, and a sheet of many cases."""

import textwrap
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813  # the name its documentation uses
from PIL import Image, ImageDraw, ImageFont

# the slices' picture: the same scale along every axis
PIXELS_PER_MM = 2
PANEL_GAP_PIXELS = 8

_Pixels = npt.NDArray[np.uint8]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# the montage, in pixels
_PICTURE_WIDTH = 480
_EMPTY_HEIGHT = 160
_PADDING = 12
_LABEL_HEIGHT = 58
_GUTTER = 16
_MARGIN = 32
_TITLE_HEIGHT = 52
_FOOTER_HEIGHT = 34
_CORNER_RADIUS = 10

_SHEET = (17, 19, 24)
_TILE = (0, 0, 0)
_EDGE = (52, 57, 68)
_TEXT = (238, 240, 244)
_FAINT = (158, 166, 180)
_WARNING = (255, 159, 92)


def slices_png(image: sitk.Image) -> bytes:
    """Picture the middle axial, coronal and sagittal slice side by side, as grey PNG.

    Radiological view: axial and coronal show the patient's right on the left; axial has
    anterior up, coronal and sagittal superior up; sagittal has anterior on the left. A
    tilted scan is shown along its own axes, each taken for the nearest of the
    patient's. Grey runs from the 1st to the 99th percentile of the whole image.
    """
    # arrays are indexed [z, y, x]; in LPS x grows to the patient's left, y to
    # posterior, z to superior
    upright = sitk.DICOMOrient(image, "LPS")
    values = sitk.GetArrayFromImage(upright).astype(np.float64)
    grey = _grey(values)

    z, y, x = (length // 2 for length in grey.shape)
    x_mm, y_mm, z_mm = upright.GetSpacing()
    panels = [
        _panel(grey[z], x_mm, y_mm),
        _panel(grey[::-1, y], x_mm, z_mm),
        _panel(grey[::-1, :, x], y_mm, z_mm),
    ]
    gaps = PANEL_GAP_PIXELS * (len(panels) - 1)
    height = max(panel.height for panel in panels)
    picture = Image.new("L", (sum(panel.width for panel in panels) + gaps, height))
    left = 0
    for panel in panels:
        picture.paste(panel, (left, (height - panel.height) // 2))
        left += panel.width + PANEL_GAP_PIXELS
    return _png(picture)


def slice_pngs(image: sitk.Image) -> list[bytes]:
    """Picture each slice along the z axis as grey PNG, a pixel per voxel; all have the grey of the whole image."""
    return [_png(Image.fromarray(np.ascontiguousarray(one))) for one in _grey(sitk.GetArrayFromImage(image))]


def enlarged_png(png: bytes) -> bytes:
    """Enlarge a small picture to at least 256 pixels of width, voxels left square."""
    with Image.open(BytesIO(png)) as picture:
        factor = -(-256 // picture.width)
        return _png(picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST))


class Tile(NamedTuple):
    """One case of a montage: its picture or, where `png` is None, why it is missing."""

    label: str
    caption: str
    png: bytes | None


def montage(tiles: Sequence[Tile], *, title: str = "", footer: str = "", columns: int = 3) -> bytes:
    """Lay pictures out in a grid with their labels, in the order given, as RGB PNG.

    One factor scales all pictures, so sizes can be compared. A tile without a picture
    keeps its place and shows its caption there. Captions that are too long end in an
    ellipsis.
    """
    pictures = [Image.open(BytesIO(tile.png)) if tile.png else None for tile in tiles]
    present = [picture for picture in pictures if picture]
    scale = min((_PICTURE_WIDTH / picture.width for picture in present), default=1.0)
    scaled = [picture and _scaled(picture, scale) for picture in pictures]
    room = max((picture.height for picture in scaled if picture), default=_EMPTY_HEIGHT)
    width = _PICTURE_WIDTH + 2 * _PADDING
    height = room + 2 * _PADDING + _LABEL_HEIGHT

    columns = max(min(columns, len(tiles)), 1)
    rows = -(-len(tiles) // columns)
    top = _MARGIN + (_TITLE_HEIGHT if title else 0)
    bottom = _MARGIN + (_FOOTER_HEIGHT if footer else 0)
    sheet_width = 2 * _MARGIN + columns * width + (columns - 1) * _GUTTER
    sheet_height = top + rows * height + max(rows - 1, 0) * _GUTTER + bottom
    sheet = Image.new("RGB", (sheet_width, sheet_height), _SHEET)
    for index, (tile, picture) in enumerate(zip(tiles, scaled, strict=True)):
        row, column = divmod(index, columns)
        left = _MARGIN + column * (width + _GUTTER)
        drawn = _tile(tile, picture, (width, height))
        sheet.paste(drawn, (left, top + row * (height + _GUTTER)))
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 6), title, _TEXT, _font(30))
    draw.text((_MARGIN, sheet_height - _MARGIN), footer, _FAINT, _font(17), anchor="ls")
    return _png(sheet)


def _tile(tile: Tile, picture: Image.Image | None, size: tuple[int, int]) -> Image.Image:
    width, height = size
    room = height - _LABEL_HEIGHT
    drawn = Image.new("RGB", size, _SHEET)
    draw = ImageDraw.Draw(drawn)
    box = (0, 0, width - 1, height - 1)
    draw.rounded_rectangle(box, _CORNER_RADIUS, _TILE, _EDGE if picture else _WARNING)
    draw.text((_PADDING, room), tile.label, _TEXT, _font(22))
    if picture:
        corner = ((width - picture.width) // 2, (room - picture.height) // 2)
        drawn.paste(picture, corner)
        caption = _fitted(tile.caption, width - 2 * _PADDING, _font(17))
        draw.text((_PADDING, room + 29), caption, _FAINT, _font(17))
    else:
        # 44 characters of 19 pixels are about as wide as a picture
        lines = textwrap.wrap(tile.caption, 44, max_lines=4, placeholder=" …")
        middle = (width / 2, room / 2)
        words = "\n".join(lines)
        draw.text(middle, words, _WARNING, _font(19), anchor="mm", align="center", spacing=8)
        draw.text((_PADDING, room + 29), "no picture", _FAINT, _font(17))
    return drawn


def _grey(values: npt.NDArray[Any]) -> _Pixels:
    """Grey from the 1st to the 99th percentile of all values."""
    dark, bright = np.percentile(values, [1, 99])
    # a width of 0 would be a division by it: then all is black or white
    window = (values - dark) / max(bright - dark, np.finfo(np.float32).tiny)
    grey: _Pixels = np.rint(window.clip(0, 1) * 255).astype(np.uint8)
    return grey


def _panel(grey: _Pixels, column_mm: float, row_mm: float) -> Image.Image:
    rows, columns = grey.shape
    size = (
        max(round(columns * column_mm * PIXELS_PER_MM), 1),
        max(round(rows * row_mm * PIXELS_PER_MM), 1),
    )
    panel = Image.fromarray(np.ascontiguousarray(grey))
    return panel.resize(size, Image.Resampling.BICUBIC)


def _scaled(picture: Image.Image, factor: float) -> Image.Image:
    size = (
        max(round(picture.width * factor), 1),
        max(round(picture.height * factor), 1),
    )
    return picture.resize(size, Image.Resampling.LANCZOS)


def _fitted(text: str, width_pixels: float, font: _Font) -> str:
    """`text` on one line, or as much of its beginning as has room."""
    line = " ".join(text.split())
    if font.getlength(line) <= width_pixels:
        return line
    while line and font.getlength(line + "…") > width_pixels:
        line = line[:-1]
    return line.rstrip() + "…"


@cache
def _font(pixels: int) -> _Font:
    """Pillow's own font: no font file has to be found on the machine."""
    return ImageFont.load_default(size=pixels)


def _png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
