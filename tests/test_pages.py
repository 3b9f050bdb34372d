"""Every page's python blocks run, in order, as one script on a loopback S3; what they print is what the page says.

A page finds the scans `image.mha`, `image1.mha`, `image2.mha`, `image3.mha` and `image_mask.mha` in `s3://my-bucket`,
and `resampled_image.mha` and `inputs_in_s3.csv` in its directory. What else it needs, a block in a comment makes:
`<!--python` to `-->`, which runs and is not shown. A block that cannot run here is fenced as `py`, and counted below.
"""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import runpy
import subprocess
import sys
import textwrap
import tomllib
import uuid
from pathlib import Path

import pytest
import SimpleITK
from botocore.exceptions import NoCredentialsError

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```$|^<!--python\n(.*?)^-->$", re.DOTALL | re.MULTILINE)
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
SCRIPTS = {
    page: "\n".join(textwrap.dedent(shown or hidden) for _, shown, hidden in BLOCK.findall(text))
    for page, text in PAGES.items()
    if BLOCK.search(text)
}
# `make dist` runs the pages with the wheel in an environment of its own
PYTHON = os.environ.get("FILE_DATASET_PAGES_PYTHON", sys.executable)
NOT_RUN = {"docs/operations.md": 1}  # blocks that need what is not here, by page: a Kubernetes with KubeRay

# notes what each `print` of the script prints, for this test to read
PRELUDE = """
import json as _json
_printed = []


def print(*values):
    _printed.append(" ".join(map(str, values)))
"""
EPILOGUE = """
with open("printed.json", "w") as _file:
    _json.dump(_printed, _file)
"""


def promised(script):
    """Return what the page says that each `print` prints: the comment behind it, or the comment lines below it."""
    lines = script.splitlines()
    said = []
    for number, line in enumerate(lines):
        if not line.strip().startswith("print("):
            continue
        behind = re.search(r"\)  # (.*)$", line)
        below = []
        for following in lines[number + 1 :]:
            if not following.strip().startswith("# "):
                break
            below.append(following.strip().removeprefix("# "))
        said.append(behind[1] if behind else "\n".join(below))
    return said


def words(text):
    return [line.split() for line in text.splitlines()]


@pytest.fixture
def bucket(default_options, options):
    """A bucket of each page's own; its name is as long as `my-bucket`, so that frames are printed alike."""
    name = f"b{uuid.uuid4().hex[:8]}"
    client = options.s3_client
    client.create_bucket(Bucket=name)
    yield name
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        for item in page.get("Contents", []):
            client.delete_object(Bucket=name, Key=item["Key"])
    client.delete_bucket(Bucket=name)


@pytest.fixture
def directory(bucket, options, tmp_path):
    """Where a page's script runs; what the docstring above promises is there and in the bucket."""
    image = tmp_path / "resampled_image.mha"
    SimpleITK.WriteImage(SimpleITK.Image([8, 8, 8], SimpleITK.sitkInt16), image)
    for name in ("image", "image1", "image2", "image3", "image_mask"):
        options.s3_client.put_object(Bucket=bucket, Key=f"{name}.mha", Body=image.read_bytes())
    rows = "".join(f"s3://{bucket}/image{n}.mha,{n}\n" for n in (1, 2, 3))
    (tmp_path / "inputs_in_s3.csv").write_text("image.mha,id\n" + rows)
    return tmp_path


def needing_ray():
    """Return the pages; those that start a Ray run beside no other."""
    return [
        pytest.param(page, marks=pytest.mark.xdist_group("ray")) if "file_dataset.ray." in script else page
        for page, script in SCRIPTS.items()
    ]


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "SECURITY.md", "example_project/README.md"])
def test_a_page_leaves_out_words_that_had_to_be_read_twice(page):
    prose = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / page).read_text(), flags=re.DOTALL)
    assert (
        re.findall(
            r"\b(?:told|tells|nobody|who?ever|whatever|somebody|everybody|is none|comes? (?:to|out) as|counts by"
            r"|simply|just|robust|seamless|powerful|leverage)\b",
            prose,
            re.IGNORECASE,
        )
        == []
    )


def missing_extra(script):
    """Return the package of an extra that the page uses, and that the Python in which pages run lacks."""
    if sys.executable == PYTHON:
        return None
    signs = {
        "ray": "file_dataset.ray.",
        "dagster": "import dagster",
        "dagster_ray": "dagster_ray",
    }
    needed = [name for name, sign in signs.items() if sign in script]
    find = "import importlib.util, sys; print(*[n for n in sys.argv[1:] if not importlib.util.find_spec(n)])"
    return subprocess.run([PYTHON, "-c", find, *needed], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("page", SCRIPTS)
def test_every_print_says_what_it_prints(page):
    assert all(promised(SCRIPTS[page]))


@pytest.mark.parametrize("page", SCRIPTS)
def test_a_block_can_be_pasted_into_python(page):
    """Before Python 3.13, its prompt ends a compound statement at an empty line, and at no other."""
    for _, shown, _ in BLOCK.findall(PAGES[page]):
        lines, statements = textwrap.dedent(shown).splitlines(), ast.parse(textwrap.dedent(shown)).body
        for statement, following in itertools.pairwise(statements):
            if hasattr(statement, "body"):
                assert "" in lines[statement.end_lineno : following.lineno - 1], lines[statement.lineno - 1]
        for statement in statements:  # a class keeps the empty lines between its methods
            if hasattr(statement, "body") and not isinstance(statement, ast.ClassDef):
                assert "" not in lines[statement.lineno - 1 : statement.end_lineno], lines[statement.lineno - 1]


def test_blocks_that_do_not_run_are_counted():
    found = {page: len(re.findall(r"^ *```py\b(?!thon)", text, re.MULTILINE)) for page, text in PAGES.items()}
    assert {page: number for page, number in found.items() if number} == NOT_RUN


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", needing_ray())
def test_a_page_runs_and_prints_what_it_says(page, bucket, directory):
    script = SCRIPTS[page].replace("my-bucket", bucket)
    if missing := missing_extra(script):
        pytest.skip(f"{PYTHON} has no {missing}")
    (directory / "script.py").write_text(f"{PRELUDE}\n{script}\n{EPILOGUE}")
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [PYTHON, "script.py"], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads((directory / "printed.json").read_text())
    assert [words(text) for text in printed] == [words(text) for text in promised(script)]


def test_a_promise_names_a_test_that_is_there():
    """Each line of the tables of promises ends in `file::test`."""
    lines = [
        line
        for page in ("docs/guarantees.md", "docs/security.md")
        for table in re.findall(r"^\| promise \| test \|\n.*?\n((?:\|.*\n)+)", PAGES[page], re.MULTILINE)
        for line in table.splitlines()
    ]
    assert len(lines) >= 30
    for line in lines:
        file, test = re.search(r"`(tests/[\w/]+\.py)::(\w+)` \|$", line).groups()
        assert f"def {test}(" in (ROOT / file).read_text(), line


def test_an_error_is_found_by_the_words_that_it_has():
    """What the first column of a table in Troubleshooting quotes is said by the code, ours or botocore's."""
    code = "".join(
        path.read_text() for name in ("file_dataset", "file_dataset_dagster") for path in (ROOT / name).rglob("*.py")
    )
    said = re.sub(r'"\n\s*f?"', "", code) + NoCredentialsError.fmt
    quoted = re.findall(r"^\| `([^|]*)` ", PAGES["docs/troubleshooting.md"], re.MULTILINE)
    assert len(quoted) >= 30
    assert [words for text in quoted for words in text.split("` and `") if words not in said] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no clone")
def test_the_source_distribution_has_all_of_the_repository():
    """CONTRIBUTING is in it, and says `make test`, which runs the example project's pages, too."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout  # noqa: S607
    always = {".gitignore", "pyproject.toml"}
    assert {line.split("/")[0] for line in listed.splitlines()} - always == set(build["sdist"]["include"])


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [needed for needs in project["optional-dependencies"].values() for needed in needs]
    names = {re.match(r"[\w-]+", needed)[0] for needed in [*project["dependencies"], *extras]} - {"file-dataset"}
    listed = {name for name in names if re.search(rf"^\|.*\b{name}\b", PAGES["docs/dependencies.md"], re.MULTILINE)}
    assert listed == names


def test_the_page_for_machines_names_every_page():
    named = set(re.findall(r"\]\((\S+\.md)\)", (ROOT / "docs/llms.txt").read_text()))
    assert named == {Path(page).name for page in PAGES if page.startswith("docs/")} - {"index.md"}


def test_the_site_has_what_the_page_for_machines_links_to(tmp_path):
    (hook,) = re.findall(r"^hooks: \[(\S+)\]$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    runpy.run_path(str(ROOT / hook))["on_post_build"]({"docs_dir": str(ROOT / "docs"), "site_dir": str(tmp_path)})
    linked = re.findall(r"\]\((\S+)\)", (ROOT / "docs/llms.txt").read_text())
    assert [page for page in linked if not (tmp_path / page).is_file()] == []
