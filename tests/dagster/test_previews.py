"""Previews: pictures of the first rows, inline, and never the reason why a run fails."""

import base64
import io
import re

import pytest
from PIL import Image

import file_dataset


def png(colour, size=(4, 3)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def of_first_letter(output_dir):
    (path,) = output_dir.iterdir()
    return png({"a": "red", "b": "green", "c": "blue"}[path.read_text().removeprefix("scan ")[0]])


def preview_of(result):
    (event,) = result.asset_materializations_for_node("copied")
    return event.metadata["preview"].value if "preview" in event.metadata else None


def pictures(markdown):
    found = re.findall(r"!\[preview\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", markdown)
    return [Image.open(io.BytesIO(base64.b64decode(one))).getpixel((0, 0)) for one in found]


@pytest.mark.parametrize("where", ["s3", "local"])
def test_the_first_rows_are_pictured(chain, scans, request, where):
    resource = request.getfixturevalue("resource" if where == "s3" else "local")
    shown = preview_of(chain(scans(["a", "x", "b", "c", "d"], missing=["x"]), resource, preview=of_first_letter))
    assert pictures(shown) == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
    assert re.findall(r"`(\w)`", shown) == ["a", "b", "c"]


def test_ids_stay_out_of_it(chain, scans):
    shown = preview_of(chain(scans(["abc"]), preview=of_first_letter, show_ids=False))
    assert len(pictures(shown)) == 1
    assert "abc" not in shown


def test_an_id_is_no_markdown(chain, scans):
    shown = preview_of(chain(scans(["a`](x)"]), preview=of_first_letter))
    assert shown.startswith("`a ](x)`\n")


def raising(output_dir):
    message = f"no picture of {output_dir.name}"
    raise OSError(message)


@pytest.mark.parametrize(
    ("preview", "said"),
    [
        (raising, "no picture of a"),
        (lambda _: b"JFIF", "returned no PNG: return its bytes"),
        (lambda _: png("red") + b"\0" * 2**20, "at most 1,048,576"),
    ],
    ids=["raises", "no PNG", "too large"],
)
def test_a_picture_that_cannot_be_made_costs_nothing_else(chain, scans, instance, preview, said):
    result = chain(scans(["a"]), preview=preview)
    assert result.success
    assert preview_of(result) is None
    logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any(message.startswith("no preview: ") and said in message for message in logged)


def test_an_empty_manifest_has_no_preview(chain, scans):
    assert preview_of(chain(scans(["a"]).head(0), preview=of_first_letter)) is None


def test_a_preview_that_is_none_is_refused_at_definition(chain, scans):
    with pytest.raises(file_dataset.InvalidDatasetError, match="takes a directory and returns a PNG"):
        chain(scans(["a"]), preview=b"png")
