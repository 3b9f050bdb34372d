"""What `dg scaffold defs` writes: YAML (or Python), and for a pipeline a function that runs and its test."""

import json
import keyword
import re
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel, Field

import file_dataset

_FUNCTION = '''\
"""What the asset `{name}` does with the files of one row."""

# no `from __future__ import annotations` here: the return type is read when it runs, for the names of the outputs

import json
from pathlib import Path
from typing import TypedDict

# a key for each file that the function writes
Outputs = TypedDict("Outputs", {{"sizes.json": Path}})


def {name}(input_dir: Path, output_dir: Path) -> Outputs:
    """Write down how long each file of the row is, in bytes. Put your own work in its place."""
    sizes = {{file.name: file.stat().st_size for file in sorted(input_dir.iterdir())}}
    output = output_dir / "sizes.json"
    output.write_text(json.dumps(sizes))
    return {{"sizes.json": output}}
'''

_TEST = '''\
"""`{name}` on files of this machine, as its asset runs it."""

import json
from pathlib import Path

import pandas as pd

import file_dataset
from {module}.{name} import {name}


def test_{name}_writes_its_outputs(tmp_path: Path) -> None:
    """A row of one file gives one file."""
    (tmp_path / "scan.txt").write_text("12345")
    frame = pd.DataFrame({{"id": ["case-1"], "scan.txt": [str(tmp_path / "scan.txt")]}})
    result = file_dataset.Pipeline({name}, write_options={{"into_path": str(tmp_path / "out")}}).run(frame)
    assert result.failures.empty
    assert json.loads(Path(result.manifest["sizes.json"][0]).read_text()) == {{"scan.txt": 5}}
'''

_PIPELINE_YAML = """\
type: {type_name}

attributes:
  fn: {fn}
  input: {input}  # the asset whose manifest names the files
  # workers: 1  # a crash of the function costs one row; all attributes: dg utils inspect-component {type_name}

# It needs an asset to read, and a store:
# dg scaffold defs file_dataset_dagster.FilesComponent scans --pattern 's3://my-bucket/raw/{{id}}/scan.txt'
# dg scaffold defs file_dataset_dagster.FileDatasetComponent store
"""

_PIPELINE_PYTHON = '''\
"""The asset `{name}`."""

import dagster as dg

from file_dataset_dagster import PipelineComponent
{import_fn}


@dg.component_instance
def load(_context: dg.ComponentLoadContext) -> PipelineComponent:
    """Run the function on each row of the manifest of the asset `input`."""
    return PipelineComponent(fn={fn}, input=dg.AssetKey.from_user_string({input}))
'''

_FILES_YAML = """\
type: {type_name}

attributes:
  name: {name}
  patterns:
    {file}: {pattern}
  # partition_by: site  # each value of a field of the patterns is a partition
  # sensor: {{}}  # requests a run when files are new or overwritten
"""

_FILES_PYTHON = '''\
"""The asset `{name}`: files of a bucket."""

import dagster as dg

from file_dataset_dagster import FilesComponent


@dg.component_instance
def load(_context: dg.ComponentLoadContext) -> FilesComponent:
    """What lies there."""
    return FilesComponent(name={name}, patterns={{{file}: {pattern}}})
'''

_RESOURCE_YAML = """\
type: {type_name}

attributes:
  base_path: {base_path}  # where manifests and outputs go: s3://bucket/prefix or a directory
  # without keys S3 is reached with what boto3 finds; an env alone is read when a run begins, and is in no file or UI
  # aws_access_key_id: "{{{{ env.SCANS_ACCESS_KEY_ID }}}}"
  # aws_secret_access_key: "{{{{ env.SCANS_SECRET_ACCESS_KEY }}}}"
  # endpoint_url: "{{{{ env.SCANS_ENDPOINT_URL }}}}"  # a store other than AWS
# requirements:  # those that dg list envs shows, and dg check yaml --validate-requirements asks for
#   env: [SCANS_ACCESS_KEY_ID, SCANS_SECRET_ACCESS_KEY, SCANS_ENDPOINT_URL]
"""

_RESOURCE_PYTHON = '''\
"""How S3 is reached."""

import dagster as dg

from file_dataset_dagster import FileDatasetComponent


@dg.component_instance
def load(_context: dg.ComponentLoadContext) -> FileDatasetComponent:
    """The resource `file_dataset` and the IO manager."""
    return FileDatasetComponent(base_path={base_path})
'''


class ResourceParams(BaseModel):
    """What `dg scaffold defs file_dataset_dagster.FileDatasetComponent` takes."""

    base_path: str = Field(
        default="{{ context.project_root }}/data",
        description="Where manifests and outputs go: s3://bucket/prefix or a directory.",
    )


class PipelineParams(BaseModel):
    """What `dg scaffold defs file_dataset_dagster.PipelineComponent` takes."""

    input: str = Field(default="scans", description="The key of the asset whose manifest is read.")
    fn: str | None = Field(
        default=None,
        description="A function that is there: package.module.function, or .module.function for a module beside the "
        "YAML file. Without it one is written, with a test.",
    )


class FilesParams(BaseModel):
    """What `dg scaffold defs file_dataset_dagster.FilesComponent` takes."""

    pattern: str = Field(
        default="s3://my-bucket/raw/{id}/scan.txt",
        description="Where the files are, with fields such as {id} and stars.",
    )
    file: str = Field(default="", description="The name that a file has in fn's directory; the pattern's last part.")


class ResourceScaffolder(dg.Scaffolder[ResourceParams]):
    """Writes the YAML of a `FileDatasetComponent`."""

    @classmethod
    def get_scaffold_params(cls) -> type[ResourceParams]:
        """As Dagster asks for it."""
        return ResourceParams

    def scaffold(self, request: dg.ScaffoldRequest[ResourceParams]) -> None:
        """Write it."""
        base_path = request.params.base_path
        python = _RESOURCE_PYTHON.format(base_path=json.dumps(base_path.replace("{{ context.project_root }}/", "")))
        yaml = _RESOURCE_YAML.format(type_name=request.type_name, base_path=json.dumps(base_path))
        _write(request, yaml, python)


class FilesScaffolder(dg.Scaffolder[FilesParams]):
    """Writes the YAML of a `FilesComponent`."""

    @classmethod
    def get_scaffold_params(cls) -> type[FilesParams]:
        """As Dagster asks for it."""
        return FilesParams

    def scaffold(self, request: dg.ScaffoldRequest[FilesParams]) -> None:
        """Write it."""
        folder = request.target_path.parent if request.append else request.target_path
        pattern = request.params.pattern
        file = request.params.file or pattern.rpartition("/")[2]
        values = {"name": re.sub(r"\W", "_", folder.name), "file": file, "pattern": pattern}
        quoted = {name: json.dumps(value) for name, value in values.items()}
        _write(request, _FILES_YAML.format(**quoted, type_name=request.type_name), _FILES_PYTHON.format(**quoted))


class PipelineScaffolder(dg.Scaffolder[PipelineParams]):
    """Writes the YAML of a `PipelineComponent`, and beside it the function and its test unless there is one."""

    @classmethod
    def get_scaffold_params(cls) -> type[PipelineParams]:
        """As Dagster asks for it."""
        return PipelineParams

    def scaffold(self, request: dg.ScaffoldRequest[PipelineParams]) -> None:
        """Write them; what lies there already stays.

        Raises:
            file_dataset.InvalidDatasetError: the folder's name is no name for a function.
            FileExistsError: the function's file or its test is there.
        """
        folder = request.target_path.parent if request.append else request.target_path
        name = folder.name
        fn = request.params.fn or f".{name}.{name}"
        if request.params.fn is None:
            if not name.isidentifier() or keyword.iskeyword(name):
                raise file_dataset.InvalidDatasetError(
                    f"{name!r} cannot be the name of a Python function: give letters, digits and _, such as "
                    "gray_scans; or --fn with a function that is there"
                )
            module = _module(folder, request.project_root)
            for file, text in ((f"{name}.py", _FUNCTION), (f"test_{name}.py", _TEST)):
                with (folder / file).open("x", encoding="utf-8") as new:
                    new.write(text.format(name=name, module=module))
        values = {"type_name": request.type_name, "name": name, "input": json.dumps(request.params.input)}
        where, _, last = fn.rpartition(".")
        python = _PIPELINE_PYTHON.format(**values, fn=last, import_fn=f"from {where or '.'} import {last}")
        _write(request, _PIPELINE_YAML.format(**values, fn=json.dumps(fn)), python)


def _write(request: dg.ScaffoldRequest[Any], yaml: str, python: str) -> None:
    if request.append:
        with request.target_path.open("a", encoding="utf-8") as defs:
            defs.write(f"---\n{yaml}")
    elif request.scaffold_format == "python":
        (request.target_path / "component.py").write_text(python, encoding="utf-8")
    else:
        (request.target_path / "defs.yaml").write_text(yaml, encoding="utf-8")


def _module(folder: Path, project_root: Path | None) -> str:
    """The name of the package that the folder is, as create-dagster lays projects out: below `src`, or the root."""
    roots = () if project_root is None else (project_root / "src", project_root)
    root = next((root for root in roots if folder.is_relative_to(root)), folder.parent)
    return ".".join(folder.relative_to(root).parts)
