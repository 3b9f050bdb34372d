"""What boto3 finds by itself: the default session or a profile, its credentials, region, endpoint and S3 settings.

A session is made once for what it is made from (the environment, the configuration files, `boto3.DEFAULT_SESSION`), so
that its credentials are fetched once and refreshed as botocore does. A change of any of these makes a new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from file_dataset import _per_process, _secrets
from file_dataset._errors import NO_CREDENTIALS, store_error

if TYPE_CHECKING:
    from collections.abc import Mapping

CREDENTIALS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")

# sessions, and stores of `options=None`: an environment that changed seldom comes back. A guess; a client has 7 MiB.
CAPACITY = 3

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
# read once per session: only a new session sees rotated keys and a changed environment
_READ_ONCE = ("env", "shared-credentials-file", "config-file")
# of botocore's session variables those that set how S3 is requested, by the names that `Config` has for them
_SETTINGS = (
    "auth_scheme_preference", "defaults_mode", "ignore_configured_endpoint_urls", "request_checksum_calculation",
    "response_checksum_validation", "sigv4a_signing_region_set", "tcp_keepalive", "use_dualstack_endpoint",
    "use_fips_endpoint", "user_agent_appid",
)  # fmt: skip
_SOURCES = {
    "config-file": "the AWS config file",
    "container-role": "the container's role",
    "custom-process": "credential_process",
    "explicit": "the Options or session",
    "iam-role": "the instance's role",
    "shared-credentials-file": "the shared credentials file",
}  # botocore's names of the others (assume-role, sso, ...) are words


class Source:
    """A session that is made when it is first asked for, and the key of what it is made from."""

    def __init__(self, key: str, default: Any, given: dict[str, Any]) -> None:  # noqa: ANN401  # boto3 has no types
        """Make no session yet.

        Args:
            key: of what follows and of the environment.
            default: `boto3.DEFAULT_SESSION`; held here, so that no other can get its id.
            given: arguments of `boto3.Session`.
        """
        self.key, self._default, self._given = key, default, given
        self._lock = threading.Lock()
        self._session: Any = None

    @property
    def session(self) -> Any:  # noqa: ANN401  # boto3 has no types
        """The session.

        Raises:
            PermissionError: credentials are named that cannot be had: an unknown profile, say.
        """
        # credentials are asked for under the lock: a botocore session asked by two threads would ask twice
        with self._lock:
            if self._session is None:
                self._session = _made(self._default, self._given)
            return self._session


def source(given: Mapping[str, Any]) -> Source:
    """Return this process's session for the environment as it is now: the default one, or one of what is given.

    Args:
        given: arguments of `boto3.Session`; with a profile or credentials among them the default session is left out.
    """
    is_own = not given.keys().isdisjoint(("profile_name", *CREDENTIALS))
    # where boto3 is not loaded there is no default session
    default = None if is_own else getattr(sys.modules.get("boto3"), "DEFAULT_SESSION", None)
    text = repr((_environment(), id(default), sorted(given.items())))
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return _per_process.recent(("default", key), lambda: Source(key, default, dict(given)), capacity=CAPACITY)


def forget(found: Source) -> None:
    """Have the next call make a new session: the credentials of this one expired, and it has no others."""
    _per_process.forget(("default", found.key))


def again(session: Any) -> Any:  # noqa: ANN401  # boto3 has no types
    """Return a new session that looks for credentials where this one did, or where boto3 does by itself."""
    import boto3

    return boto3.Session(profile_name=_profile(session), region_name=session.region_name)


def _environment() -> tuple[object, ...]:
    """Return what boto3's own choice depends on."""
    # botocore reads upper and lower case of the proxies' names
    names = [name for name in os.environ if name.startswith("AWS_") or name.upper() in _PROXIES or name == "HOME"]
    values = {name: os.environ[name] for name in sorted(names)}
    _secrets.remember(values.get(name) for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"))
    files: list[tuple[int, ...] | None] = []
    for name, usual in (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")):
        try:
            found = Path(values.get(name, usual)).expanduser().stat()
        except (OSError, RuntimeError):  # no such file, or no home
            files.append(None)
        else:
            files.append((found.st_mtime_ns, found.st_ino, found.st_size))
    return tuple(values.items()), tuple(files)


def _made(default: Any, given: dict[str, Any]) -> Any:  # noqa: ANN401  # boto3 has no types
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        session = boto3.Session(**given) if default is None else default
        credentials = session.get_credentials()
        if default is not None and given:
            # one of its own, for the region that was given, with the same credentials
            session = boto3.Session(**{"profile_name": _profile(default), "region_name": default.region_name, **given})
            if credentials is not None and credentials.method not in _READ_ONCE:
                core: Any = session._session  # noqa: SLF001
                core._credentials = credentials  # noqa: SLF001  # boto3 takes no object that refreshes
        elif credentials is not None and default is not None and credentials.method in _READ_ONCE:
            fresh = boto3.Session(profile_name=_profile(default), region_name=default.region_name)
            if _keys(fresh.get_credentials()) != _keys(credentials):
                session = fresh
    except (BotoCoreError, ClientError) as exc:
        raise lost(exc) from None
    return session


def lost(error: Exception) -> OSError:
    """Return the error that names which credentials cannot be had, and the remedy."""
    from botocore.exceptions import ProfileNotFound

    with contextlib.suppress(OSError, ValueError):  # what a role was asked for with, and the answer may repeat
        _secrets.remember([Path(os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE", "")).read_text(encoding="utf-8")])
    _secrets.scrub(error)
    text = _secrets.without_userinfo(str(error))
    remedy = "correct the AWS configuration, or give Options(...)"
    if isinstance(error, ProfileNotFound):
        remedy = f"the profiles of this machine are {_profiles() or 'none'}; correct the name, or give Options(...)"
    return store_error(PermissionError, f"{text}: {remedy}", code=NO_CREDENTIALS)


def _profiles() -> list[str]:
    import botocore.session
    from botocore.exceptions import BotoCoreError

    try:
        return sorted(botocore.session.Session().available_profiles)
    except BotoCoreError:  # the file cannot be read
        return []


def _profile(session: Any) -> str | None:  # noqa: ANN401  # boto3 has no types
    # the property is "default" for none
    profile: str | None = session._session.get_config_variable("profile")  # noqa: SLF001
    return profile


def _keys(credentials: Any) -> tuple[Any, ...] | None:  # noqa: ANN401  # boto3 has no types
    return None if credentials is None else tuple(credentials.get_frozen_credentials())


def checked(credentials: Any) -> tuple[str, str, str | None]:  # noqa: ANN401  # boto3 has no types
    """Return access key id, secret key and token as they are now, and have them masked; they may be fetched for it.

    Raises:
        PermissionError: they cannot be had (a role that is refused, say), or one of them cannot be sent: a mounted
            secret with its line break.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        now = credentials.get_frozen_credentials()
    except (BotoCoreError, ClientError) as exc:
        raise lost(exc) from None
    _secrets.remember((now.secret_key, now.token))
    for name, value in zip(CREDENTIALS, (now.access_key, now.secret_key, now.token), strict=True):
        if fault := fault_of(name, value):
            where = f"{name.upper()} of the environment"
            if credentials.method != "env":
                where = f"{name} from {_SOURCES.get(credentials.method, credentials.method)}"
            raise store_error(PermissionError, f"{where} {fault}", code=NO_CREDENTIALS)
    return now.access_key, now.secret_key, now.token


def fault_of(name: str, value: object) -> str | None:
    """Return why a credential cannot be sent or sign, and the remedy, without showing it; None: it can."""
    if not isinstance(value, str):
        return None
    if not value.isprintable():
        return "holds a line break or another control character: strip it (mounted secrets often end in a line break)"
    if not value.isascii() and name != CREDENTIALS[1]:  # a secret key is not sent, and signs as UTF-8
        return "holds characters beyond ASCII, which no header can carry: correct it"
    return None


def settings(session: Any) -> Any:  # noqa: ANN401  # botocore has no types
    """Return a `Config` of what the session's profile, environment and default client config set of S3; None: nothing.

    Its values are those that botocore would use for a client of this session; its own defaults are left out.
    """
    from botocore.config import Config

    core = session._session  # noqa: SLF001  # boto3 offers no public way to its botocore session
    found: dict[str, Any] = {name: value for name in _SETTINGS if (value := _set_value(core, name)) is not None}
    section = core.get_scoped_config().get("s3")
    if isinstance(section, dict) and "signature_version" in section:
        found["signature_version"] = section["signature_version"]
    known = {name: value for name, value in (core.get_config_variable("s3") or {}).items() if name in _s3_names()}
    if known := {name: value for name, value in known.items() if value is not None}:
        found["s3"] = known
    if retries := {
        name: value
        for name, value in (
            ("total_max_attempts", core.get_config_variable("max_attempts")),
            ("mode", _set_value(core, "retry_mode")),
        )
        if value is not None
    }:
        found["retries"] = retries
    own = core.get_default_client_config()
    if own is None:
        return Config(**found) if found else None
    return merged(Config(**found), own)


def _set_value(core: Any, name: str) -> Any:  # noqa: ANN401  # botocore has no types
    """Return a session variable that is set; None where it is botocore's own default."""
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES as VARIABLES

    if name not in VARIABLES:  # an older botocore
        return None
    in_file, in_environment, usual, _ = VARIABLES[name]
    value = core.get_config_variable(name)
    is_set = value != usual or in_environment in os.environ or in_file in core.get_scoped_config()
    return value if is_set else None


def _s3_names() -> frozenset[str]:
    from botocore.configprovider import DEFAULT_S3_CONFIG_VARS

    return frozenset(DEFAULT_S3_CONFIG_VARS)


def is_set(session: Any, name: str) -> bool:  # noqa: ANN401  # boto3 has no types
    """Return whether environment or profile turn a setting on."""
    return bool(_set_value(session._session, name))  # noqa: SLF001


def retry_mode(session: Any) -> str | None:  # noqa: ANN401  # boto3 has no types
    """Return the retry mode of the environment or profile; None where it is botocore's own default."""
    mode: str | None = _set_value(session._session, "retry_mode")  # noqa: SLF001
    return mode


def merged(base: Any, over: Any) -> Any:  # noqa: ANN401  # botocore has no types
    """Return both `Config`s as one, as botocore merges one over a profile: `s3` and `retries` value by value."""
    from botocore.config import Config

    if base is None or over is None:
        return over if base is None else base
    # the only record of what was set
    below, above = dict(base._user_provided_options), dict(over._user_provided_options)  # noqa: SLF001
    for name in ("s3", "retries"):
        if below.get(name) and above.get(name):
            inner = dict(below[name])
            if "max_attempts" in above[name]:
                inner.pop("total_max_attempts", None)
            above[name] = {**inner, **above[name]}
    return Config(**{**below, **above})


def ca_bundle(session: Any) -> tuple[str, str] | None:  # noqa: ANN401  # boto3 has no types
    """Return the CA file that the environment or profile names, and which of them it was."""
    core = session._session  # noqa: SLF001
    path = core.get_config_variable("ca_bundle")
    if path is None:
        return None
    return path, "AWS_CA_BUNDLE" if path == os.environ.get("AWS_CA_BUNDLE") else "ca_bundle of the profile"


def endpoint(session: Any) -> str | None:  # noqa: ANN401  # boto3 has no types
    """Return the endpoint that the environment or profile sets for S3, which a worker's environment may lack."""
    from botocore.configprovider import ConfiguredEndpointProvider

    core = session._session  # noqa: SLF001
    if core.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    provider = ConfiguredEndpointProvider(
        full_config=core.full_config, scoped_config=core.get_scoped_config(), client_name="s3", environ=os.environ
    )
    url: str | None = provider.provide()
    _secrets.remember_url(url)
    return url


def frozen(
    session_kwargs: Mapping[str, Any], client_kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both with what the default session, or the profile that is given, sets of S3 written out.

    Args:
        session_kwargs: of `boto3.Session`.
        client_kwargs: of its S3 client.

    Raises:
        PermissionError: credentials are named that cannot be had.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    session = source(session_kwargs).session
    try:
        config = merged(settings(session), client_kwargs.get("config"))
        is_plain = getattr(config, "ignore_configured_endpoint_urls", None)
        url = None if is_plain else endpoint(session)
        ca = ca_bundle(session)
        credentials = session.get_credentials()
        keys = None if credentials is None else checked(credentials)
    except (BotoCoreError, ClientError) as exc:
        raise lost(exc) from None
    found = {"endpoint_url": url, "verify": ca and ca[0], **client_kwargs, "config": config}
    client = {name: value for name, value in found.items() if value is not None or name in client_kwargs}
    region = {"region_name": session.region_name} if session.region_name else {}
    if keys is None:
        return {**region, **session_kwargs}, client
    # written out, the profile is done with; a worker may not have it
    rest = {name: value for name, value in session_kwargs.items() if name != "profile_name"}
    return {**region, **{name: value for name, value in zip(CREDENTIALS, keys, strict=True) if value}, **rest}, client
