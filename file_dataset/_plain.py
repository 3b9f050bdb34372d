"""Keys, region, endpoint and CA of a plain S3, found where boto3 finds them, without loading boto3.

To load botocore and make a client takes 0.3 s of CPU, and more than the rest of a process that reads one row. What
most processes have needs neither: keys in the options, the environment or a profile, and a region, an endpoint or a CA
beside them. All else that botocore reads (another variable, another value of the profile, a folder of models, a proxy,
a `Config`) leaves the search to boto3. `tests/s3/test_plain.py` holds that both find the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from file_dataset import _defaults, _secrets
from file_dataset._defaults import CREDENTIALS

if TYPE_CHECKING:
    from collections.abc import Mapping

# what is read here; each of them has a value where it is set
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_VARIABLES = frozenset({
    *_KEYS, *_ENDPOINTS, "AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_REGION",
    "AWS_SHARED_CREDENTIALS_FILE",
    # of no request for S3 with keys
    "AWS_DEFAULT_OUTPUT", "AWS_EC2_METADATA_DISABLED", "AWS_EXECUTION_ENV", "AWS_PAGER",
})  # fmt: skip
_OF_PROFILE = frozenset({*CREDENTIALS, "ca_bundle", "cli_pager", "endpoint_url", "output", "region"})
_OF_SESSION = frozenset({*CREDENTIALS, "profile_name", "region_name"})
_OF_CLIENT = frozenset({"endpoint_url", "verify"})

# With an endpoint, a region is only signed for. botocore knows names of its own, which stand for others.
_REGION = re.compile(r"(?!.*(?:aws|fips|global|external))[a-z0-9]+(?:-[a-z0-9]+)*")
# Those of the partition "aws" (https://docs.aws.amazon.com/general/latest/gr/s3.html): no GovCloud, no China
_REGION_OF_AWS = re.compile(
    r"(?:af|ap|ca|eu|il|me|mx|sa|us)-(?:north|south|east|west|central|northeast|northwest|southeast|southwest)-[1-9]"
)
_ENDPOINT = re.compile(r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?P<port>:[0-9]{1,5})?/?")
_USUAL_REGION = "us-east-1"  # S3's own, where none is set


@dataclass(frozen=True, slots=True)
class Plain:
    """A plain S3: who signs, for which region, and where requests go."""

    keys: tuple[str, str, str | None] = field(repr=False)
    region: str
    endpoint_url: str | None  # None: AWS
    verify: tuple[bool | str, str]  # as of `_sessions.verify`


def may_be() -> bool:
    """Return whether nothing in this process can have to do with boto3's requests.

    Mocks and handlers need botocore's client: where that is not loaded, there are none.
    """
    return "botocore.client" not in sys.modules


def find(session_kwargs: Mapping[str, Any], client_kwargs: Mapping[str, Any]) -> Plain | None:
    """Return what the arguments of a session and its client, the environment and a profile come to.

    None: some of it is unusual, or wrong; boto3 finds what it is, or says what is wrong.
    """
    environment = {name: text for name, text in os.environ.items() if name.startswith(("AWS_", "BOTOCORE_"))}
    verify = client_kwargs.get("verify")
    texts = [*environment.values(), *session_kwargs.values(), client_kwargs.get("endpoint_url", "none")]
    if (
        not environment.keys() <= _VARIABLES
        or not session_kwargs.keys() <= _OF_SESSION
        or not client_kwargs.keys() <= _OF_CLIENT
        or not all(isinstance(text, str) and text for text in texts)
        or not isinstance(verify, bool | str | None)
        or verify == ""  # False, on the other hand, turns the check of certificates off
        or environment.get("AWS_REGION") not in (None, environment.get("AWS_DEFAULT_REGION"))
        or _has_proxies()
        or os.path.exists(os.path.expanduser("~/.aws/models"))  # noqa: PTH110, PTH111  # as botocore
    ):
        return None
    name = session_kwargs.get("profile_name") or environment.get("AWS_PROFILE")
    profiles = _profiles(environment)
    if profiles is None or (name and not any(name in profile for profile in profiles)):
        return None
    in_config, in_credentials = (profile.get(name or "default", {}) for profile in profiles)
    profile = {**in_config, **in_credentials}
    if not profile.keys() <= _OF_PROFILE or not all(isinstance(text, str) and text for text in profile.values()):
        return None
    keys = _keys(session_kwargs, environment, (in_credentials, in_config))
    region = session_kwargs.get("region_name") or environment.get("AWS_DEFAULT_REGION") or profile.get("region")
    url = client_kwargs.get("endpoint_url") or next(
        (environment[name] for name in _ENDPOINTS if name in environment), profile.get("endpoint_url")
    )
    if keys is None or not _is_known(region, url):
        return None
    _secrets.remember(keys[1:])
    ca = environment.get("AWS_CA_BUNDLE") or profile.get("ca_bundle")
    by = "AWS_CA_BUNDLE" if "AWS_CA_BUNDLE" in environment else "ca_bundle of the profile"
    trusted = (ca, by) if ca else (True, "botocore")
    if verify is not None:
        trusted = verify, "verify= of the Options"
    return Plain(keys, region or _USUAL_REGION, url, trusted)


def pinned_session(plain: Plain) -> Any:  # noqa: ANN401  # boto3 has no types
    """Return a session of these keys and region alone; a profile that the environment names by now is not read."""
    import boto3
    import botocore.session

    core: Any = botocore.session.Session()
    core._config = {"profiles": {}}  # noqa: SLF001  # what the profile had is in `plain`; it may be another one now
    core.get_component("config_store").set_config_variable("profile", None)
    core.set_credentials(*plain.keys)
    return boto3.Session(botocore_session=core, region_name=plain.region)


def pinned_client_kwargs(plain: Plain) -> dict[str, Any]:
    """Return the arguments of a client that goes to the same place, also where the environment has changed."""
    from botocore.config import Config

    kwargs: dict[str, Any] = {"verify": plain.verify[0]}
    if plain.endpoint_url is None:
        return {**kwargs, "config": Config(ignore_configured_endpoint_urls=True)}  # type: ignore[call-arg]  # the stubs do not know it
    return {**kwargs, "endpoint_url": plain.endpoint_url}


def _is_known(region: str | None, url: str | None) -> bool:
    if url is None:
        return region is None or bool(_REGION_OF_AWS.fullmatch(region))
    if region is not None and not _REGION.fullmatch(region):
        return False
    found = _ENDPOINT.fullmatch(url)
    # for hosts of its own botocore has rules
    return found is not None and "aws" not in found["host"] and ".." not in found["host"]


def _has_proxies() -> bool:
    if sys.platform != "linux":  # the system has some too
        from urllib.request import getproxies

        return bool(getproxies().keys() - {"no"})
    return any(name.lower().endswith("_proxy") and name.lower() != "no_proxy" for name in os.environ)


def _profiles(environment: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the profiles of the config file and those of the credentials file; None: one of them cannot be read."""
    paths = [
        environment.get(name, usual)
        for name, usual in (
            ("AWS_CONFIG_FILE", "~/.aws/config"),
            ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        )
    ]
    if not any(os.path.isfile(os.path.expanduser(os.path.expandvars(path))) for path in paths):  # noqa: PTH111, PTH113  # as botocore
        return {}, {}
    from botocore.configloader import load_config, raw_config_parse
    from botocore.exceptions import BotoCoreError, ConfigNotFound

    config: dict[str, Any] = {}
    credentials: dict[str, Any] = {}
    try:
        with contextlib.suppress(ConfigNotFound):
            config = load_config(paths[0])["profiles"]
        with contextlib.suppress(ConfigNotFound):
            credentials = raw_config_parse(paths[1])
    except BotoCoreError:
        return None
    return config, credentials


def _keys(
    session_kwargs: Mapping[str, Any], environment: Mapping[str, str], profiles: tuple[Mapping[str, Any], ...]
) -> tuple[str, str, str | None] | None:
    """Return access key id, secret key and token, all of one place; None: a part of them is somewhere else."""
    of_environment = {name: environment[of] for name, of in zip(CREDENTIALS, _KEYS, strict=True) if of in environment}
    places = [session_kwargs, of_environment, *profiles]
    if "profile_name" in session_kwargs:
        places = [*profiles]  # the environment's keys are not those of a profile that is given
        if not session_kwargs.keys().isdisjoint(CREDENTIALS):
            return None
    for place in places:
        if place.keys().isdisjoint(CREDENTIALS):
            continue
        access, secret, token = (place.get(name) for name in CREDENTIALS)
        if not access or not secret or any(_defaults.fault_of(name, place.get(name)) for name in CREDENTIALS):
            return None
        return access, secret, token
    return None
