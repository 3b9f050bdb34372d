"""The montage: order, one scale, and a place for cases without a picture."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageChops

from example_project.pictures import Tile, montage

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def png(colour: tuple[int, int, int], width: int, height: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def sheet(tiles: list[Tile], **options: object) -> Image.Image:
    return Image.open(BytesIO(montage(tiles, **options)))  # type: ignore[arg-type]


def box_of(colour: tuple[int, int, int], image: Image.Image) -> tuple[int, ...]:
    rows, columns = np.nonzero((np.asarray(image) == colour).all(axis=-1))
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_tiles_follow_each_other_by_rows() -> None:
    image = sheet(
        [
            Tile("a", "", png(RED, 90, 60)),
            Tile("b", "", png(GREEN, 90, 60)),
            Tile("c", "", png(BLUE, 90, 60)),
        ],
        columns=2,
    )
    red, green, blue = (box_of(colour, image) for colour in (RED, GREEN, BLUE))
    assert red[2] < green[0]
    assert red[1] == green[1]
    assert red[3] < blue[1]
    assert red[0] == blue[0]


def test_one_factor_scales_all_pictures() -> None:
    image = sheet([Tile("a", "", png(RED, 90, 60)), Tile("b", "", png(GREEN, 45, 15))])
    red, green = box_of(RED, image), box_of(GREEN, image)
    assert red[2] - red[0] == 2 * (green[2] - green[0])
    assert red[3] - red[1] == 4 * (green[3] - green[1])


def test_a_case_without_a_picture_keeps_its_place_and_tells_why() -> None:
    def of(*tiles: Tile) -> Image.Image:
        return sheet([*tiles, Tile("z", "", png(RED, 90, 60))])

    with_picture = of(Tile("a", "", png(GREEN, 90, 60)))
    dropped = of(Tile("a", "no such file", None))
    assert box_of(RED, dropped) == box_of(RED, with_picture)
    otherwise = of(Tile("a", "something else", None))
    left, top, right, bottom = box_of(GREEN, with_picture)
    texts = [image.crop((left, top, right, bottom)) for image in (dropped, otherwise)]
    assert ImageChops.difference(*texts).getbbox() is not None


@pytest.mark.parametrize("picture", [png(RED, 90, 60), None], ids=["picture", "none"])
@pytest.mark.parametrize("caption", ["words " * 200, "s3://bucket/" + "long/" * 200], ids=["words", "url"])
def test_long_captions_end_before_the_edge(caption: str, picture: bytes | None) -> None:
    def right_of_pictures(text: str) -> Image.Image:
        tiles = [Tile("a", text, picture), Tile("b", "", png(GREEN, 90, 60))]
        image = sheet(tiles, columns=1)
        return image.crop((box_of(GREEN, image)[2], 0, *image.size))

    assert ImageChops.difference(right_of_pictures(caption), right_of_pictures("short")).getbbox() is None


def test_label_title_and_footer_are_drawn() -> None:
    plain = Tile("", "", png(RED, 90, 60))
    assert montage([plain._replace(label="case-01")]) != montage([plain])
    assert montage([plain._replace(caption="1,820 ml")]) != montage([plain])
    height = sheet([plain]).height
    assert sheet([plain], title="t").height > height
    assert sheet([plain], footer="f").height > height


@pytest.mark.parametrize("tiles", [[], [Tile("a", "gone", None)]], ids=["0", "1"])
def test_without_any_picture_there_is_still_a_sheet(tiles: list[Tile]) -> None:
    assert sheet(tiles, title="nothing").format == "PNG"
