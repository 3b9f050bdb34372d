"""How S3 is reached, as Dagster config. The only module that knows dagster-aws."""

# no `from __future__ import annotations` here: Dagster reads a resource's annotations as types

import os
import weakref
from typing import Any, Literal, Optional

import dagster as dg
from botocore import UNSIGNED
from botocore.config import Config

# dagster exports no name for what `configure_at_launch` returns
from dagster._config.pythonic_config import PartialResource
from dagster_aws.s3.resources import ResourceWithS3Configuration, S3Resource
from pydantic import ConfigDict, Field, model_validator

import file_dataset

_S3_FIELDS = tuple(ResourceWithS3Configuration.model_fields)
_SECRETS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_MASK = "********"  # what Dagster's launchpad shows in place of a secret (dagster._core.snap.snap_to_yaml)


def _secret(description: str) -> Any:  # noqa: ANN401 (what pydantic's own Field returns)
    return Field(default=None, description=description, repr=False, json_schema_extra={"dagster__is_secret": True})


class _EnvOnly(dg.ScalarUnion):
    """A string that run config may only name by its environment variable.

    Dagster stores run config as plain text with the run, and resolves it before it creates the run. Its launchpad
    prefills a secret field with a mask, which stands for the value in code: `in_code`, an EnvVar's dict, or None.
    """

    def __init__(self, in_code: object) -> None:
        # Dagster takes types of one key for one type
        key = f"EnvOnlyString.{in_code['env']}" if isinstance(in_code, dict) else "EnvOnlyString"
        super().__init__(str, dg.Selector({"env": str}), _key=key)  # type: ignore[no-untyped-call]
        self.in_code = in_code

    def post_process(self, value: object) -> object:
        if value == _MASK:
            value = self.in_code
        if value is None:
            return None
        if not isinstance(value, dict):
            raise file_dataset.InvalidDatasetError(
                'a secret of the file_dataset resource was typed into run config: name its variable, {"env": "NAME"}, '
                "or set the field in code to EnvVar. Dagster would have stored it as plain text"
            )
        if value["env"] not in os.environ:
            raise file_dataset.InvalidDatasetError(
                f"the environment variable {value['env']}, named in the file_dataset resource's config, is not set"
            )
        return os.environ[value["env"]]


def _fit_to_launch(definition: Any) -> Any:  # noqa: ANN401 (Dagster exports no name for this type)
    """The same resource with a config schema that is safe to launch runs with.

    Dagster stores the schema and its defaults with every run, so a secret that is a literal in code leaves it; other
    secrets take `{"env": ...}` only. Run config that gives one field leaves the others as they are in code, where
    Dagster's own schema would reset them, credentials included, to their defaults.
    """
    if definition in _FIT_TO_LAUNCH:
        return _FIT_TO_LAUNCH[definition]
    schema = definition.config_schema.as_field()
    given = {
        name: value
        for name, value in schema.default_value.items()
        if name not in _SECRETS or not isinstance(value, str)  # an EnvVar is a dict here
    }
    fields = {
        name: dg.Field(
            dg.Noneable(_EnvOnly(value)) if name in _SECRETS else schema.config_type.fields[name].config_type,
            default_value=value,
            is_required=False,
            description=schema.config_type.fields[name].description,
            is_secret=name in _SECRETS,
        )
        for name, value in given.items()
    }
    _FIT_TO_LAUNCH[definition] = type(definition)(
        configurable_resource_cls=definition.configurable_resource_cls,
        resource_fn=definition.resource_fn,
        config_schema=dg.Field(dg.Shape(fields), default_value=given),  # type: ignore[no-untyped-call]
        description=definition.description,
        nested_resources=definition.nested_resources,
        nested_partial_resources=definition.nested_partial_resources,
    )
    return _FIT_TO_LAUNCH[definition]


# Dagster compares definitions by identity: one resource must always give the same one
_FIT_TO_LAUNCH: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


class _AtLaunch(PartialResource[Any]):
    """A resource whose remaining fields are given at launch."""

    def get_resource_definition(self) -> Any:  # noqa: ANN401 (as above)
        return _fit_to_launch(super().get_resource_definition())


class FileDatasetResource(ResourceWithS3Configuration):
    """S3 for pipelines and manifests: dagster-aws's own S3 fields, and how file_dataset uses them.

    Secrets are an `EnvVar` or a literal in code, masked in the UI. A literal typed into run config is
    refused, because Dagster stores run config as plain text.

    Fields:
        region_name, endpoint_url, aws_access_key_id, ...: those of dagster-aws's `S3Resource`.
        s3_resource: an `S3Resource` that you have, in the place of these fields.
        base_path: where manifests and outputs lie by default: s3://bucket/prefix or a local directory.
        credentials: "frozen" (those of the process that starts the pipeline go along) or "worker" (each finds its own).
        ca_bundle, addressing_style, checksums_when_required: for stores other than AWS.
        check_digests, max_concurrency: as `file_dataset.Options` takes them.

    Example:
        >>> store = FileDatasetResource(base_path="s3://my-bucket/dagster", max_concurrency=16)
        >>> file_dataset.reader({"scan.txt": "s3://my-bucket/scan.txt"}, options=store.get_options()).into_size_table()[
        ...     "scan.txt"
        ... ].to_pylist()
        [5]
    """

    # the error of a wrong value hides the values of the other fields, secrets among them; a misspelt field is an error
    model_config = ConfigDict(hide_input_in_errors=True, extra="forbid")

    aws_access_key_id: str | None = _secret("AWS access key ID: an EnvVar, best.")
    aws_secret_access_key: str | None = _secret("AWS secret access key: an EnvVar, best.")
    aws_session_token: str | None = _secret("AWS session token: an EnvVar, best.")
    # Dagster resolves Optional here, and not a union
    s3_resource: dg.ResourceDependency[Optional[S3Resource]] = Field(default=None, repr=False)  # type: ignore[arg-type]  # noqa: UP045
    base_path: str | None = Field(
        default=None,
        description="Where manifests and outputs lie by default: s3://bucket/prefix or a local directory.",
    )
    credentials: Literal["frozen", "worker"] = Field(
        default="frozen",
        description="frozen: the credentials of the process that starts the pipeline go along with it. "
        "worker: each process finds its own.",
    )
    ca_bundle: str | None = Field(default=None, description="Path of a CA bundle (PEM) for a store with its own CA.")
    addressing_style: Literal["auto", "path", "virtual"] = Field(
        default="auto", description="path for most MinIO and Ceph installations (https://host/bucket/key)."
    )
    checksums_when_required: bool = Field(
        default=False, description="Send checksums only where S3 demands them: for stores that refuse the others."
    )
    check_digests: bool = Field(default=True, description="Compare a digest of each download where the store has one.")
    max_concurrency: int | None = Field(
        default=None, description="Requests in flight at most; without it as many as bring most, up to 512."
    )

    @model_validator(mode="after")
    def _refuse_two_configurations(self) -> "FileDatasetResource":
        """One S3 configuration: that of `s3_resource`, or this resource's own fields."""
        own = [name for name in _S3_FIELDS if getattr(self, name) != type(self).model_fields[name].default]
        if self.__dict__.get("s3_resource") is not None and own:
            raise ValueError(f"s3_resource is given, so set {', '.join(own)} on it and not on this resource")
        if self.ca_bundle is not None and self.verify is False:
            raise ValueError("verify=False checks no certificate, so ca_bundle would do nothing: give one of the two")
        return self

    def get_resource_definition(self) -> Any:  # noqa: ANN401 (as above)
        """As the base class's, with a config schema that is safe to launch runs with."""
        return _fit_to_launch(super().get_resource_definition())

    @classmethod
    def configure_at_launch(cls, **kwargs: Any) -> Any:  # noqa: ANN401 (as above)
        """As the base class's; a secret in run config must be `{"env": "NAME"}`."""
        return _AtLaunch(resource_cls=cls, data=kwargs)

    def get_options(self) -> file_dataset.Options:
        """The same configuration for `file_dataset`; with `credentials="frozen"` it holds secrets when pickled.

        Raises:
            file_dataset.InvalidDatasetError: `s3_resource` is not an S3Resource.
        """
        s3 = self if self.s3_resource is None else self.s3_resource
        if not isinstance(s3, ResourceWithS3Configuration):
            # Dagster hands a nested S3Resource.configure_at_launch() over as a bare boto3 client
            raise file_dataset.InvalidDatasetError(
                f"s3_resource is a {type(s3).__name__}, not an S3Resource: give S3Resource(...) with EnvVar "
                "fields instead of S3Resource.configure_at_launch(), or set the fields of this resource"
            )
        # dagster-aws documents max_attempts with the first call included: botocore calls that total_max_attempts
        config: dict[str, Any] = {"retries": {"mode": "adaptive", "total_max_attempts": max(1, s3.max_attempts)}}
        if s3.use_unsigned_session:
            config["signature_version"] = UNSIGNED
        if self.addressing_style != "auto":
            config["s3"] = {"addressing_style": self.addressing_style}
        if self.checksums_when_required:
            config |= {
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            }
        session_kwargs = {name: getattr(s3, name) for name in ("profile_name", "region_name", *_SECRETS)}
        client_kwargs: dict[str, Any] = {
            "endpoint_url": s3.endpoint_url,
            "use_ssl": None if s3.use_ssl else False,
            "verify": s3.verify if self.ca_bundle is None else self.ca_bundle,
        }
        make = file_dataset.Options.default if self.credentials == "frozen" else file_dataset.Options
        return make(
            {name: value for name, value in session_kwargs.items() if value is not None},
            {"config": Config(**config)} | {name: value for name, value in client_kwargs.items() if value is not None},
            max_concurrency=self.max_concurrency,
            check_digests=self.check_digests,
        )
