"""What YAML can say of an argument, and the value that Python code would give: keys, functions, policies, partitions.

A text is what is written: Dagster reads the text "1.10" of a component's YAML as a number, and this does not. Only what
has `{{ }}` in it is rendered. Dagster's UI shows the names of the models.
"""

# no `from __future__ import annotations` here: Dagster reads the annotations of a component as types

import functools
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import dagster as dg
from pydantic import BaseModel, Field

import file_dataset

if TYPE_CHECKING:
    from jinja2.nativetypes import NativeEnvironment

_ENV = re.compile(r"""\s*\{\{\s*env(?:\.(\w+)|\(\s*['"](\w+)['"]\s*\))\s*\}\}\s*""")
_TEMPLATE = re.compile(r"\{[{%#]")
_SHOWN = 10  # functions in a message; a guess

# a number, or a template that gives one
_Int: TypeAlias = int | str


class ReadAsset(dg.Model):
    key: str
    partition_mapping: str | None = None
    metadata: dict[str, Any] | None = None
    input_manager_key: str | None = None


class Retry(dg.Model):
    max_retries: _Int = 1
    delay: float | str | None = None
    backoff: Literal["linear", "exponential"] | None = None
    jitter: Literal["full", "plus_minus"] | None = None


class SingleRun(dg.Model):
    type: Literal["single_run"]


class MultiRun(dg.Model):
    type: Literal["multi_run"]
    max_partitions_per_run: _Int = 1


class Hourly(dg.Model):
    type: Literal["hourly"]
    start_date: str
    end_date: str | None = None
    timezone: str | None = None
    fmt: str | None = None
    end_offset: _Int = 0
    minute_offset: _Int = 0


class Daily(Hourly):
    type: Literal["daily"]  # type: ignore[assignment]  # the tag of a union
    hour_offset: _Int = 0


class Weekly(Daily):
    type: Literal["weekly"]  # type: ignore[assignment]
    day_offset: _Int = 0


class Monthly(Daily):
    type: Literal["monthly"]  # type: ignore[assignment]
    day_offset: _Int = 1


class TimeWindow(dg.Model):
    type: Literal["time_window"]
    start_date: str
    end_date: str | None = None
    timezone: str | None = None
    fmt: str
    end_offset: _Int = 0
    cron_schedule: str


class Static(dg.Model):
    type: Literal["static"]
    partition_keys: list[str] | str


class Dynamic(dg.Model):
    type: Literal["dynamic"]
    name: str


# by `type`: an error is of the one that is meant, and not of each
_BY_TYPE = Field(discriminator="type")
_OneDimension: TypeAlias = Hourly | Daily | Weekly | Monthly | TimeWindow | Static | Dynamic


class Multi(dg.Model):
    type: Literal["multi"]
    dimensions: dict[str, Annotated[_OneDimension, _BY_TYPE]]


_PARTITIONS: Mapping[str, Callable[..., dg.PartitionsDefinition[Any]]] = {
    "hourly": dg.HourlyPartitionsDefinition,
    "daily": dg.DailyPartitionsDefinition,
    "weekly": dg.WeeklyPartitionsDefinition,
    "monthly": dg.MonthlyPartitionsDefinition,
    "time_window": lambda start_date, end_date=None, **others: dg.TimeWindowPartitionsDefinition(
        start=start_date, end=end_date, **others
    ),
    "static": dg.StaticPartitionsDefinition,
    "dynamic": dg.DynamicPartitionsDefinition,
}


class Written(str):
    """The text of a secret that stands in the YAML itself, and in which file and line."""

    __slots__ = ("place",)
    place: str


@functools.cache
def _templates() -> "NativeEnvironment":
    """Dagster's templates, but a name that there is not has no text: `s3://{{ buckt }}/scans` would be `s3:///scans`."""
    from jinja2 import Undefined  # as late as Dagster loads it
    from jinja2.nativetypes import NativeEnvironment

    class Unset(Undefined):
        __str__ = Undefined._fail_with_undefined_error  # noqa: SLF001 (as jinja2's documentation has it)

    return NativeEnvironment(undefined=Unset)


class _Env:
    """`env` of a template: a variable that is not set is false, and an error where its text is asked for.

    Dagster's is None, and `s3://{{ env.BUCKET }}/scans` would be the bucket `None`.
    """

    def __init__(self, given: Any) -> None:  # noqa: ANN401 (Dagster exports no name for it)
        self._given = given

    def __call__(self, *arguments: Any) -> Any:  # noqa: ANN401
        return self._given(*arguments)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        value = getattr(self._given, name)
        return _templates().undefined(f"the environment variable {name} is not set") if value is None else value


def _of_template(context: dg.ResolutionContext, text: str) -> Any:  # noqa: ANN401
    from jinja2 import Undefined, UndefinedError

    scope = {**context.scope, "env": _Env(context.scope["env"])}
    try:
        found = _templates().from_string(text).render(**scope)
    except UndefinedError as exc:
        said = str(exc)
    except Exception:  # noqa: BLE001 (Dagster meets it as well, and says where it is written)
        return context.with_scope(env=scope["env"]).resolve_value(text, as_type=object)
    else:
        if not isinstance(found, Undefined):
            return found
        said = found._undefined_message  # noqa: SLF001 (as Dagster asks for it)
    # Dagster says where it is written
    return context.with_scope(env=_templates().undefined(said)).resolve_value("{{ env }}", as_type=object)


def _rendered(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401 (what YAML holds)
    """The value with each `{{ }}` in it rendered, and every other text as it is."""
    if isinstance(value, str):
        return _of_template(context, value) if _TEMPLATE.search(value) else value
    if isinstance(value, Mapping):
        return {name: _rendered(context.at_path(name), one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rendered(context.at_path(place), one) for place, one in enumerate(value)]
    return value


def _text(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    found = _rendered(context, value)
    if not isinstance(found, int | float):
        return found
    # a template whose text looks like a number gives a number: 1.1 for the version 1.10 of the environment
    return _as_text(context, value) if isinstance(value, str) else str(found)


def _as_text(context: dg.ResolutionContext, template: str) -> str:
    from jinja2 import Environment

    text = Environment(autoescape=False).from_string(template)  # noqa: S701 (no HTML)
    return text.render(**{**context.scope, "env": _Env(context.scope["env"])})


def _texts(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        return [_text(context.at_path(place), one) for place, one in enumerate(value)]
    found = _rendered(context, value)
    if not isinstance(found, list | tuple):
        return found
    return [str(one) if isinstance(one, int | float) else one for one in found]


def _text_or_texts(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    found = _texts(context, value)
    return found if isinstance(found, list) else _text(context, value)


def _texts_by_name(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {name: _text(context.at_path(name), one) for name, one in value.items()}
    found = _rendered(context, value)
    return {name: _text(context, one) for name, one in found.items()} if isinstance(found, Mapping) else found


def _text_or_env(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    """`{{ env.NAME }}` alone is an `EnvVar`: read when a run begins, in no schema or UI, and an error when not set."""
    if isinstance(value, str) and (found := _ENV.fullmatch(value)):
        return dg.EnvVar(found[1] or found[2])
    return _text(context, value)


def _secret(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    """As text or env; what is written out is marked: an error here would show the line that it is written in."""
    found = _text_or_env(context, value)
    if not isinstance(value, str) or _TEMPLATE.search(value):
        return found
    marked = Written(found)
    source = context.source_position_tree
    at = source and source.source_error(yaml_path=context.path, inline_error_message="", value_error=True)
    marked.place = f"{at.file_name}:{at.start_line_no}" if at else "the YAML"
    return marked


def _template(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, str) and not _TEMPLATE.search(value):
        raise file_dataset.InvalidDatasetError(
            f"{value!r} is text, where an object of Dagster's is needed: write a template that makes it, "
            '"{{ dg.... }}", or the name of a variable of a template_vars_module, "{{ name }}"'
        )
    return _rendered(context, value)


def _templates_by_name(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {name: _template(context.at_path(name), one) for name, one in value.items()}
    return _template(context, value)


def _function(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    found = _text(context, value)
    if not isinstance(found, str):
        return found
    *modules, name = found.removeprefix(".").split(".")
    module = ".".join(modules)
    if not modules or not all(part.isidentifier() for part in [*modules, name]):
        raise file_dataset.InvalidDatasetError(
            f"{found!r} names no function: give package.module.function, or .module.function for a module that lies "
            "beside this YAML file"
        )
    if found.startswith("."):
        load = dg.ComponentLoadContext.from_resolution_context(context)
        module = f"{load.defs_relative_module_name(load.path)}.{module}"
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module}.".startswith(f"{exc.name}."):
            raise
        raise file_dataset.InvalidDatasetError(
            f"there is no module {exc.name}, which {found!r} names: give package.module.function, or .module.function "
            "for a module that lies beside this YAML file"
        ) from exc
    if not hasattr(loaded, name):
        raise file_dataset.InvalidDatasetError(
            f"the module {module} has no {name}, which {found!r} names: it has {_functions_of(loaded)}"
        )
    return getattr(loaded, name)


def _functions_of(module: ModuleType) -> str:
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    found = [name for name in own if callable(getattr(module, name))]
    return ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "") or "no function"


def _key(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    found = _text(context, value)
    return dg.AssetKey.from_user_string(found) if isinstance(found, str) else found


def _keys(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    found = _texts(context, value)
    return [_key(context, one) for one in found] if isinstance(found, list) else found


def _selection(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    found = _rendered(context, value)
    return dg.AssetSelection.from_string(found) if isinstance(found, str) else found


def _input(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    if not isinstance(value, ReadAsset):
        return _key(context, value)
    how = {"key": _key, "partition_mapping": _template, "metadata": _rendered, "input_manager_key": _text}
    given = value.model_dump(exclude_none=True)
    return dg.AssetIn(**{name: how[name](context.at_path(name), one) for name, one in given.items()})


def _retry_policy(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    if not isinstance(value, BaseModel):
        return _template(context, value)
    given = _rendered(context, value.model_dump(exclude_none=True))
    for name, kinds in (("backoff", dg.Backoff), ("jitter", dg.Jitter)):
        if name in given:
            given[name] = kinds[given[name].upper()]
    return dg.RetryPolicy(**given)


def _backfill_policy(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, SingleRun):
        return dg.BackfillPolicy.single_run()
    if isinstance(value, MultiRun):
        return dg.BackfillPolicy.multi_run(_rendered(context, value.max_partitions_per_run))
    return _template(context, value)


def _partitions_def(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    if not isinstance(value, BaseModel):
        return _template(context, value)
    if isinstance(value, Multi):
        return dg.MultiPartitionsDefinition(
            {name: _partitions_def(context.at_path(name), one) for name, one in value.dimensions.items()}
        )
    given = {
        name: _of_partitions(name)(context.at_path(name), one)
        for name, one in value.model_dump(exclude_none=True).items()
    }
    return _PARTITIONS[given.pop("type")](**given)


def _of_partitions(name: str) -> Callable[[dg.ResolutionContext, Any], Any]:
    """How an argument of a class of partitions is read: offsets are numbers, all others text."""
    if name.endswith("_offset"):
        return _rendered
    return _keys_of_partitions if name == "partition_keys" else _text


def _keys_of_partitions(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401
    found = _texts(context, value)
    if isinstance(found, str):
        raise file_dataset.InvalidDatasetError(f"partition_keys={found!r} is one text: give a list of keys")
    return found


def _by(resolve: Callable[[dg.ResolutionContext, Any], Any], in_yaml: Any) -> dg.Resolver:  # noqa: ANN401 (a type)
    # without inject_before_resolve Dagster would have rendered the text before, and made a number of "1.10"
    return dg.Resolver(resolve, model_field_type=in_yaml, inject_before_resolve=False)


# Python's types are Any where Dagster has objects of its own: `pipeline_asset` and `dg.asset` check them.
Text: TypeAlias = Annotated[str | None, _by(_text, str | None)]
# an EnvVar is a str, of which pydantic would make its name
TextOrEnv: TypeAlias = Annotated[Any, _by(_text_or_env, str | None)]
Secret: TypeAlias = Annotated[Any, _by(_secret, str | None)]
Texts: TypeAlias = Annotated[Sequence[str] | None, _by(_texts, list[str] | None)]
TextOrTexts: TypeAlias = Annotated[str | Sequence[str] | None, _by(_text_or_texts, str | list[str] | None)]
BoolOrTexts: TypeAlias = Annotated[bool | Sequence[str], _by(_rendered, bool | list[str])]
TextsByName: TypeAlias = Annotated[
    Mapping[str, str] | None, _by(_texts_by_name, dict[str, str | int | float | bool] | None)
]
ValuesByName: TypeAlias = Annotated[Mapping[str, Any] | None, _by(_rendered, dict[str, Any] | None)]
Template: TypeAlias = Annotated[Any, _by(_template, str | None)]
Templates: TypeAlias = Annotated[Any, _by(_templates_by_name, dict[str, str] | None)]
Function: TypeAlias = Annotated[Any, _by(_function, str)]
OptionalFunction: TypeAlias = Annotated[Any, _by(_function, str | None)]
Key: TypeAlias = Annotated[Any, _by(_key, str | None)]
Keys: TypeAlias = Annotated[Any, _by(_keys, list[str] | None)]
Selection: TypeAlias = Annotated[Any, _by(_selection, str | None)]
Input: TypeAlias = Annotated[Any, _by(_input, str | ReadAsset)]
RetryPolicy: TypeAlias = Annotated[Any, _by(_retry_policy, Retry | None)]
BackfillPolicy: TypeAlias = Annotated[Any, _by(_backfill_policy, Annotated[SingleRun | MultiRun, _BY_TYPE] | None)]
PartitionsDef: TypeAlias = Annotated[Any, _by(_partitions_def, Annotated[_OneDimension | Multi, _BY_TYPE] | None)]
