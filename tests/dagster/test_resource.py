"""FileDatasetResource: Dagster config in, Options out, and no secret anywhere else."""

import dagster as dg
import pandas as pd
import pytest
import yaml
from botocore import UNSIGNED
from dagster._core.snap import JobSnap
from dagster._core.snap.snap_to_yaml import default_values_yaml_from_type_snap
from dagster_aws.s3 import S3Resource
from dagster_aws.s3.resources import ResourceWithS3Configuration
from helpers import stored_text
from pydantic import ValidationError

import file_dataset
from file_dataset_dagster import FileDatasetResource, ManifestIOManager, pipeline_asset

SECRET = "Zs3cr3tZ"
SECRET_FIELDS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


def config_of(**fields):
    return FileDatasetResource(**fields).get_options().s3_client_kwargs["config"]


def options_in_a_run(resource, run_config=None):
    """What get_options() gives inside a run."""
    seen = []

    @dg.asset
    def probe(file_dataset: FileDatasetResource) -> None:
        seen.append(file_dataset.get_options())

    dg.materialize([probe], resources={"file_dataset": resource}, run_config=run_config or {})
    return seen[0]


def test_it_has_the_fields_of_dagster_aws():
    assert issubclass(FileDatasetResource, ResourceWithS3Configuration)


def test_where_and_who_reach_the_client():
    options = FileDatasetResource(
        endpoint_url="http://127.0.0.1:9000",
        region_name="eu-central-1",
        aws_access_key_id="key",
        aws_secret_access_key=SECRET,
        aws_session_token="token",
    ).get_options()
    assert options.s3_client.meta.endpoint_url == "http://127.0.0.1:9000"
    assert options.s3_client.meta.region_name == "eu-central-1"
    assert tuple(options.session.get_credentials().get_frozen_credentials())[:3] == ("key", SECRET, "token")


def test_max_attempts_counts_the_first_call():
    """dagster-aws documents it so: "the initial call counts toward the max_attempts value"."""
    assert config_of(max_attempts=3).retries == {"mode": "adaptive", "total_max_attempts": 3}


def test_addressing_style_reaches_the_client():
    assert config_of(addressing_style="path").s3 == {"addressing_style": "path"}


@pytest.mark.parametrize(("asked", "expected"), [(True, "when_required"), (False, None)], ids=["asked", "not asked"])
def test_checksums_are_sent_only_when_required_if_asked(asked, expected):
    config = config_of(checksums_when_required=asked)
    assert (config.request_checksum_calculation, config.response_checksum_validation) == (expected, expected)


def test_unsigned_requests_need_no_credentials(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    options = FileDatasetResource(use_unsigned_session=True).get_options()
    assert options.s3_client.meta.config.signature_version == UNSIGNED


@pytest.mark.parametrize(
    ("fields", "verify"),
    [({}, None), ({"verify": False}, False), ({"ca_bundle": "/etc/ca.pem"}, "/etc/ca.pem")],
    ids=["default", "off", "own CA"],
)
def test_certificates_are_checked_as_asked(fields, verify):
    assert FileDatasetResource(**fields).get_options().s3_client_kwargs.get("verify") == verify


def test_a_ca_bundle_beside_verify_false_is_refused():
    with pytest.raises(ValidationError, match="ca_bundle would do nothing"):
        FileDatasetResource(verify=False, ca_bundle="/etc/ca.pem")


def test_plain_http_is_used_when_asked():
    assert FileDatasetResource(use_ssl=False).get_options().s3_client.meta.endpoint_url.startswith("http://")


def test_transfers_are_configured():
    options = FileDatasetResource(max_concurrency=7, check_digests=False).get_options()
    assert (options.max_concurrency, options.check_digests) == (7, False)


def test_frozen_credentials_are_those_of_this_process():
    assert FileDatasetResource().get_options().session_kwargs["aws_secret_access_key"] == SECRET


def test_worker_credentials_are_looked_up_where_they_are_used():
    assert not FileDatasetResource(credentials="worker").get_options().session_kwargs


def test_an_existing_s3_resource_wins():
    nested = S3Resource(endpoint_url="http://127.0.0.1:9001", region_name="eu-west-1", max_attempts=2)
    options = options_in_a_run(FileDatasetResource(s3_resource=nested, max_concurrency=3))
    assert options.s3_client.meta.endpoint_url == "http://127.0.0.1:9001"
    assert options.s3_client_kwargs["config"].retries["total_max_attempts"] == 2
    assert options.max_concurrency == 3


def test_own_s3_fields_beside_an_s3_resource_are_refused():
    with pytest.raises(ValidationError, match="set region_name on it"):
        FileDatasetResource(s3_resource=S3Resource(), region_name="eu-west-1")


def test_an_s3_resource_configured_at_launch_is_refused_with_the_remedy():
    """Dagster hands it over as a bare boto3 client, which tells nothing of how it was made."""
    nested = S3Resource.configure_at_launch()
    resource = FileDatasetResource(s3_resource=nested)

    @dg.asset
    def probe(file_dataset: FileDatasetResource) -> None:
        file_dataset.get_options()

    with pytest.raises(file_dataset.InvalidDatasetError, match="EnvVar fields instead of"):
        dg.materialize([probe], resources={"file_dataset": resource, "s3": nested})


@pytest.mark.parametrize("text", [repr, str], ids=["repr", "str"])
@pytest.mark.parametrize(
    "resource",
    [
        FileDatasetResource(**dict.fromkeys(SECRET_FIELDS, SECRET)),
        FileDatasetResource(s3_resource=S3Resource(aws_secret_access_key=SECRET)),
        ManifestIOManager(resource=FileDatasetResource(aws_secret_access_key=SECRET)),
    ],
    ids=["own", "nested", "in an IO manager"],
)
def test_no_secret_is_shown(resource, text):
    assert SECRET not in text(resource)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_concurrency": "many"},
        {"s3_resource": S3Resource()},
        {"credentials": "other"},
        {"aws_session_token": [SECRET]},
    ],
    ids=str,
)
def test_an_error_about_a_field_shows_no_secret(wrong):
    with pytest.raises(ValidationError) as caught:
        FileDatasetResource(**{"aws_secret_access_key": SECRET} | wrong)
    assert SECRET not in str(caught.value)


def test_a_misspelt_field_is_refused():
    """Dagster's own resources ignore it."""
    with pytest.raises(ValidationError, match="max_concurency"):
        FileDatasetResource(max_concurency=8)


@pytest.mark.parametrize("field", SECRET_FIELDS)
def test_secrets_are_masked_in_the_config_schema(field):
    schema = FileDatasetResource().get_resource_definition().config_schema.as_field()
    assert schema.config_type.fields[field].is_secret


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    tmp_path.joinpath("dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    return tmp_path


@pytest.mark.parametrize(
    "fields",
    [
        {"aws_secret_access_key": SECRET},
        {"aws_secret_access_key": dg.EnvVar("AWS_SECRET_ACCESS_KEY")},
        {"s3_resource": S3Resource(aws_secret_access_key=SECRET)},
    ],
    ids=["literal", "EnvVar", "nested"],
)
def test_dagster_stores_no_secret(home, fields):
    resource = FileDatasetResource(base_path="stored-base-path", **fields)

    @dg.asset
    def probe(context: dg.AssetExecutionContext, file_dataset: FileDatasetResource) -> None:
        context.log.info("%s %s", file_dataset, file_dataset.get_options())

    with dg.DagsterInstance.get() as instance:
        dg.materialize([probe], instance=instance, resources={"file_dataset": resource})
    stored = stored_text(home)
    assert "stored-base-path" in stored  # the search finds what is there
    assert SECRET not in stored


RESOURCES = {
    "as it is": FileDatasetResource(base_path="x"),
    "with an EnvVar": FileDatasetResource(aws_secret_access_key=dg.EnvVar("AWS_SECRET_ACCESS_KEY")),
    "configured at launch": FileDatasetResource.configure_at_launch(base_path="x"),
}


def launched(value):
    return {"resources": {"file_dataset": {"config": {"aws_secret_access_key": value}}}}


@pytest.mark.parametrize("resource", RESOURCES.values(), ids=RESOURCES)
def test_a_literal_secret_in_run_config_is_refused_before_the_run_is_stored(home, resource):
    @dg.asset
    def probe(file_dataset: FileDatasetResource) -> None: ...

    with dg.DagsterInstance.get() as instance:
        with pytest.raises(file_dataset.InvalidDatasetError, match='"env": "NAME"') as caught:
            dg.materialize(
                [probe], instance=instance, resources={"file_dataset": resource}, run_config=launched(SECRET)
            )
        assert not instance.get_runs()
    assert SECRET not in str(caught.value)
    assert SECRET not in stored_text(home)


@pytest.mark.parametrize("resource", RESOURCES.values(), ids=RESOURCES)
def test_run_config_may_name_the_variable_of_a_secret(monkeypatch, resource):
    monkeypatch.setenv("OTHER_SECRET", "other")
    options = options_in_a_run(resource, launched({"env": "OTHER_SECRET"}))
    assert options.session_kwargs["aws_secret_access_key"] == "other"


def test_a_variable_that_is_not_set_is_named():
    with pytest.raises(file_dataset.InvalidDatasetError, match="NOT_THERE"):
        options_in_a_run(FileDatasetResource(), launched({"env": "NOT_THERE"}))


def test_other_fields_are_configured_at_launch_and_keep_a_literal_secret():
    resource = FileDatasetResource.configure_at_launch(aws_access_key_id="key", aws_secret_access_key=SECRET)
    run_config = {"resources": {"file_dataset": {"config": {"region_name": "eu-west-3"}}}}
    kwargs = options_in_a_run(resource, run_config).session_kwargs
    assert (kwargs["region_name"], kwargs["aws_secret_access_key"]) == ("eu-west-3", SECRET)


@pytest.mark.parametrize("secret", [SECRET, dg.EnvVar("AWS_SECRET_ACCESS_KEY")], ids=["literal", "EnvVar"])
def test_run_config_of_one_field_leaves_the_others_as_in_code(secret):
    """With Dagster's own schema they fall back to their defaults: another endpoint, and other credentials."""
    resource = FileDatasetResource(
        region_name="eu-west-2", aws_access_key_id="key", aws_secret_access_key=secret, credentials="worker"
    )
    run_config = {"resources": {"file_dataset": {"config": {"max_concurrency": 3}}}}
    options = options_in_a_run(resource, run_config)
    assert options.max_concurrency == 3
    assert options.session_kwargs == {
        "region_name": "eu-west-2", "aws_access_key_id": "key", "aws_secret_access_key": SECRET,
    }  # fmt: skip


def test_an_io_manager_takes_a_resource_that_is_configured_at_launch(tmp_path):
    resource = FileDatasetResource.configure_at_launch()

    @dg.asset
    def frame():
        return pd.DataFrame({"id": [1]})

    dg.materialize(
        [frame],
        resources={"file_dataset": resource, "io_manager": ManifestIOManager(resource=resource)},
        run_config={"resources": {"file_dataset": {"config": {"base_path": str(tmp_path)}}}},
    )
    assert (tmp_path / "manifests" / "frame" / "manifest.parquet").exists()


# --- what the launchpad prefills ---

ENV = {
    "aws_access_key_id": dg.EnvVar("AWS_ACCESS_KEY_ID"),
    "aws_secret_access_key": dg.EnvVar("AWS_SECRET_ACCESS_KEY"),
}
LITERAL = {"aws_access_key_id": "from-code", "aws_secret_access_key": SECRET}
STORES = {
    "no keys": FileDatasetResource(base_path="x"),
    "EnvVars": FileDatasetResource(base_path="x", **ENV),
    "literals": FileDatasetResource(base_path="x", **LITERAL),
    "EnvVars in an S3Resource": FileDatasetResource(base_path="x", s3_resource=S3Resource(**ENV)),
    "literals in an S3Resource": FileDatasetResource(base_path="x", s3_resource=S3Resource(**LITERAL)),
    "configured at launch": FileDatasetResource.configure_at_launch(base_path="x"),
}
IO_MANAGERS = {
    "the same store": lambda store: ManifestIOManager(resource=store),
    "a store of its own": lambda _: ManifestIOManager(resource=FileDatasetResource(base_path="x", **ENV)),
    "at launch": lambda store: ManifestIOManager.configure_at_launch(resource=store),
}


def prefilled(job):
    """The run config that the launchpad shows before anyone types, as text."""
    snap = JobSnap.from_job_def(job)
    schema = snap.config_schema_snapshot
    return default_values_yaml_from_type_snap(schema, schema.get_config_snap(snap.mode_def_snaps[0].root_config_key))


@pytest.mark.parametrize("make_io_manager", IO_MANAGERS.values(), ids=IO_MANAGERS)
@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_the_run_config_that_the_launchpad_prefills_is_accepted_and_keeps_the_secrets_of_the_code(
    store, make_io_manager
):
    seen = []

    @dg.asset
    def probe(file_dataset: FileDatasetResource) -> None:
        seen.append(file_dataset.get_options().session_kwargs)

    pipeline = pipeline_asset(lambda input_dir, output_dir: {}, name="out", input="raw_scans")
    resources = {"file_dataset": store, "io_manager": make_io_manager(store)}
    jobs = [dg.define_asset_job("whole"), dg.define_asset_job("probed", [probe])]
    definitions = dg.Definitions([dg.AssetSpec("raw_scans"), pipeline, probe], jobs=jobs, resources=resources)
    text = prefilled(definitions.resolve_job_def("whole"))
    assert SECRET not in text
    dg.validate_run_config(definitions.resolve_job_def("whole"), yaml.safe_load(text))
    probed = definitions.resolve_job_def("probed")
    for config in ({}, yaml.safe_load(prefilled(probed))):
        assert probed.execute_in_process(run_config=config).success
    assert seen[0] == seen[1]
    assert seen[0]["aws_secret_access_key"] == SECRET


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_a_secret_typed_beside_the_masks_is_refused(store):
    run_config = launched("********")
    run_config["resources"]["file_dataset"]["config"]["aws_session_token"] = "typed"
    # a field that is a literal in code is not in the schema at all
    with pytest.raises((file_dataset.InvalidDatasetError, dg.DagsterInvalidConfigError)):
        options_in_a_run(store, run_config)
