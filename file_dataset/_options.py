"""How a store is reached: plain data that pickles, and one boto3 session and client per process made from it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from file_dataset import _process
from file_dataset._errors import NO_CREDENTIALS, InvalidDatasetError, store_error

Engine: TypeAlias = Literal["auto", "boto3"]

# What a repr may show; every other value is masked, so that a new kind of secret is masked too.
_SHOWN = {"region_name", "profile_name", "endpoint_url", "use_ssl", "verify", "api_version", "aws_account_id"}
_SHOWN_CONFIG = {
    "region_name", "signature_version", "connect_timeout", "read_timeout", "max_pool_connections", "s3", "retries",
    "request_checksum_calculation", "response_checksum_validation", "use_fips_endpoint", "use_dualstack_endpoint",
}  # fmt: skip
_CREDENTIALS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_UNSIGNED = "unsigned"
# s3transfer's own default is 5 too (boto3.s3.transfer.TransferConfig.num_download_attempts)
_ATTEMPTS = 5


@dataclass(frozen=True, eq=False, repr=False)
class Options:
    """How a store is reached.

    Always picklable, before and after use. **A pickle of options with credentials in them holds these secrets**: treat
    it as one. `repr` and `str` mask them.

    Args:
        session_kwargs: for `boto3.Session(...)`.
        s3_client_kwargs: for `session.client("s3", ...)`; its `config` is merged over one with adaptive retries.
        max_concurrency: requests in flight per process and options.
        check_digests: compare the digest that the store offers; length and version are always compared.
        engine: what moves the bytes: `"boto3"`, or `"auto"` for the fastest that is there.

    Raises:
        InvalidDatasetError: an argument that cannot be pickled or has no meaning.
    """

    session_kwargs: Mapping[str, Any] | None = None
    s3_client_kwargs: Mapping[str, Any] | None = None
    max_concurrency: int = field(default=64, kw_only=True)
    check_digests: bool = field(default=True, kw_only=True)
    engine: Engine = field(default="auto", kw_only=True)

    def __post_init__(self) -> None:
        """Check the arguments and copy them."""
        for name in ("session_kwargs", "s3_client_kwargs"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Mapping):
                raise InvalidDatasetError(f"{name} is a {type(value).__name__}: give a mapping of keyword arguments")
            object.__setattr__(self, name, {k: v for k, v in (value or {}).items() if k != "config" or v is not None})
        session, client = _kwargs(self)
        _check_config(client.get("config"))
        for name in _CREDENTIALS:
            for kwargs in (session, client):
                if isinstance(value := kwargs.get(name), str) and not value.isprintable():
                    raise InvalidDatasetError(f"{name} holds a line break or another control character: strip it")
        url = client.get("endpoint_url")
        if url is not None and not (isinstance(url, str) and url.startswith(("http://", "https://"))):
            raise InvalidDatasetError("endpoint_url: give it whole, such as https://minio.example:9000")
        if "botocore_session" in session:
            raise InvalidDatasetError(
                "botocore_session cannot be pickled: give profile_name or the credentials instead"
            )
        if (
            isinstance(self.max_concurrency, bool)
            or not isinstance(self.max_concurrency, int)
            or self.max_concurrency < 1
        ):
            raise InvalidDatasetError(f"max_concurrency={self.max_concurrency!r}: give a whole number of at least 1")
        if self.engine not in ("auto", "boto3"):
            raise InvalidDatasetError(f"engine={self.engine!r}: give 'auto' or 'boto3'")

    @classmethod
    def default(
        cls,
        session_kwargs: Mapping[str, Any] | None = None,
        s3_client_kwargs: Mapping[str, Any] | None = None,
        *,
        max_concurrency: int = 64,
        check_digests: bool = True,
        engine: Engine = "auto",
    ) -> Options:
        """Return options with the credentials, region and endpoint of this process's default session, frozen.

        They are read afresh at each call, so that the process that starts a job can hand its own access to workers that
        have none. What is given is merged over them. Without credentials here, the options hold none: local paths still
        work, and the first use of S3 says what is missing.

        Raises:
            PermissionError: the default session names credentials that it cannot get: an unknown profile, say.
        """
        given = cls(
            session_kwargs,
            s3_client_kwargs,
            max_concurrency=max_concurrency,
            check_digests=check_digests,
            engine=engine,
        )
        session, client = _frozen(*map(dict, _kwargs(given)))
        return replace(given, session_kwargs=session, s3_client_kwargs=client)

    @property
    def session(self) -> Any:  # noqa: ANN401  # boto3 has no types
        """The `boto3.Session`: made on first use, one per process and options, safe between threads."""
        return _process.recent(("session", identity(self)), lambda: new_session(self))

    @property
    def s3_client(self) -> Any:  # noqa: ANN401  # boto3 has no types
        """The boto3 S3 client: made on first use, one per process and options, safe between threads."""
        return _process.recent(("client", identity(self)), lambda: new_client(self, self.session))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle plain data; sessions and clients stay in their process."""
        return _from_plain, _plain(self)

    def __eq__(self, other: object) -> bool:
        """Tell whether both reach the same store in the same way."""
        return isinstance(other, Options) and identity(self) == identity(other)

    def __hash__(self) -> int:
        """Hash what `==` compares."""
        return hash(identity(self))

    def __repr__(self) -> str:
        """Show what is set, secrets masked."""
        session, client = _kwargs(self)
        parts = [f"session_kwargs={_masked(session)}", f"s3_client_kwargs={_masked(client)}"]
        parts += [f"{name}={getattr(self, name)!r}" for name in ("max_concurrency", "check_digests", "engine")]
        return f"Options({', '.join(parts)})"


def _check_config(config: object) -> None:
    if config is None:
        return
    from botocore.config import Config

    if not isinstance(config, Config):
        raise InvalidDatasetError(f"config is a {type(config).__name__}: give a botocore.config.Config")


def identity(options: Options) -> str:
    """Return a hash of everything in the options: equal ones share a session, a client and a pool."""
    return hashlib.sha256(repr(_ordered(_plain(options))).encode("utf-8", "surrogatepass")).hexdigest()


def _ordered(value: Any) -> Any:  # noqa: ANN401  # plain data
    """Return mappings as sorted pairs, at every depth: their order means nothing."""
    if isinstance(value, Mapping):
        return tuple((name, _ordered(inner)) for name, inner in sorted(value.items()))
    return tuple(map(_ordered, value)) if isinstance(value, tuple) else value


def attempts(options: Options) -> int:
    """Return the attempts per HTTP request: `total_max_attempts` of the `Config`, else 5."""
    config: Any = _kwargs(options)[1].get("config")
    retries = (config.retries if config is not None else None) or {}
    # botocore's max_attempts does not count the first attempt
    return int(retries.get("total_max_attempts", retries.get("max_attempts", _ATTEMPTS - 1) + 1))


def has_credentials(options: Options) -> bool:
    """Tell whether credentials are part of the options, rather than looked up by the process that uses them."""
    return any(name in kwargs for kwargs in _kwargs(options) for name in _CREDENTIALS)


def without_credentials(options: Options) -> Options:
    """Return the same options for the process's own chain of credentials."""
    session, client = ({k: v for k, v in kwargs.items() if k not in _CREDENTIALS} for kwargs in _kwargs(options))
    return replace(options, session_kwargs=session, s3_client_kwargs=client)


def new_session(options: Options) -> Any:  # noqa: ANN401  # boto3 has no types
    """Return a new `boto3.Session`.

    Raises:
        PermissionError: half of a pair of keys.
        InvalidDatasetError: an argument that boto3 does not know.
    """
    import boto3

    session_kwargs = _kwargs(options)[0]
    if missing := [name for name in _CREDENTIALS[:2] if not session_kwargs.get(name)]:
        given = [name for name in _CREDENTIALS if session_kwargs.get(name)]
        if given:
            message = f"session_kwargs have {given} without {missing}: give both keys or none"
            raise store_error(PermissionError, message, code=NO_CREDENTIALS)
    try:
        return boto3.Session(**session_kwargs)
    except TypeError as exc:
        raise InvalidDatasetError(f"session_kwargs: {exc}; boto3.Session's own arguments are known") from exc


def keys_of(session: Any) -> tuple[str, str | None] | None:  # noqa: ANN401  # boto3 has no types
    """Return access key id and token of a session, None where it has none."""
    credentials = session.get_credentials()
    if credentials is None:
        return None
    now = credentials.get_frozen_credentials()
    return now.access_key, now.token


def frozen_keys(options: Options, session: Any) -> tuple[str, str, str | None]:  # noqa: ANN401  # boto3 has no types
    """Return access key, secret key and token as they are now; refreshable ones may be fetched.

    Raises:
        PermissionError: there are none.
    """
    client = _kwargs(options)[1]
    if client.get(_CREDENTIALS[0]) and client.get(_CREDENTIALS[1]):
        return client[_CREDENTIALS[0]], client[_CREDENTIALS[1]], client.get(_CREDENTIALS[2])
    credentials = session.get_credentials()
    if credentials is None:
        raise store_error(PermissionError, "there are no credentials", code=NO_CREDENTIALS)
    now = credentials.get_frozen_credentials()
    return now.access_key, now.secret_key, now.token


def verify(options: Options, session: Any) -> bool | str:  # noqa: ANN401  # boto3 has no types
    """Return which certificates are trusted: a CA file or directory, True for the usual ones, False for any."""
    given: bool | str | None = _kwargs(options)[1].get("verify")
    if given is None:
        # where botocore looks too: AWS_CA_BUNDLE, and `ca_bundle` of the profile
        given = session._session.get_config_variable("ca_bundle")  # noqa: SLF001  # boto3 has no name for it
    return True if given is None else given


def new_client(options: Options, session: Any, *, one_attempt: bool = False) -> Any:  # noqa: ANN401  # boto3 has no types
    """Return a new S3 client; with `one_attempt` botocore itself retries nothing and compares no digests."""
    from botocore.config import Config

    kwargs = dict(_kwargs(options)[1])
    given: Any = kwargs.pop("config", None) or Config()
    retries = {"mode": "adaptive", **(given.retries or {})}
    ours: dict[str, Any] = {}
    if one_attempt:
        retries = {"mode": retries["mode"], "total_max_attempts": 1}
        ours["response_checksum_validation"] = "when_required"
    adaptive: Any = Config(retries=retries, **ours)  # type: ignore[arg-type]  # the stubs know no "mode" in a dict
    config = Config(max_pool_connections=options.max_concurrency).merge(given).merge(adaptive)
    try:
        return session.client("s3", config=config, **kwargs)
    except TypeError as exc:
        raise InvalidDatasetError(f"s3_client_kwargs: {exc}; the arguments of boto3's client() are known") from exc


def without_userinfo(text: str) -> str:
    """Return text with `user:password@` of any URL in it masked."""
    return re.sub(r"(?<=://)[^\s/'\"]+@", "***@", text)


def without_secrets(text: str, options: Options) -> str:
    """Return text with every secret of the options masked, and `user:password@` of any URL."""
    session, client = _kwargs(options)
    config: Any = client.get("config")
    urls = [client.get("endpoint_url"), *((getattr(config, "proxies", None) or {}).values())]
    secrets = [str(kwargs[name]) for kwargs in (session, client) for name in _CREDENTIALS[1:] if kwargs.get(name)]
    secrets += [url.partition("://")[2].rpartition("@")[0] for url in urls if isinstance(url, str)]
    for secret in secrets:
        if secret.strip():
            text = text.replace(secret.strip(), "***")
    return without_userinfo(text)


def check(options: object) -> None:
    """Refuse what is not None and no `Options`.

    Raises:
        InvalidDatasetError: saying what it is.
    """
    if options is not None and not isinstance(options, Options):
        raise InvalidDatasetError(f"options is a {type(options).__name__}: give file_dataset.Options")


def _kwargs(options: Options) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return options.session_kwargs or {}, options.s3_client_kwargs or {}


def _plain(options: Options) -> tuple[Any, ...]:
    """Return everything as plain data: botocore's UNSIGNED does not survive pickle, its Config only without it."""
    session, client = _kwargs(options)
    plain = dict(client)
    if (config := plain.pop("config", None)) is not None:
        plain["config"] = _config_to_plain(config)
    return (
        tuple(sorted(session.items())),
        tuple(sorted(plain.items())),
        options.max_concurrency,
        options.check_digests,
        options.engine,
    )


def _masked(kwargs: Mapping[str, Any]) -> str:
    shown = []
    for name, value in kwargs.items():
        if name == "config":
            options = {k: v if k in _SHOWN_CONFIG else "***" for k, v in _config_to_plain(value).items()}
            text = f"Config({options})"
        else:
            # up to the last @: a password that was not quoted may hold anything
            text = re.sub(r"(?<=://).*@", "***@", repr(value)) if name in _SHOWN else "'***'"
        shown.append(f"{name!r}: {text}")
    return "{" + ", ".join(shown) + "}"


def _config_to_plain(config: Any) -> dict[str, Any]:  # noqa: ANN401  # boto3 has no types
    from botocore import UNSIGNED

    plain = dict(config._user_provided_options)  # noqa: SLF001  # the only record of what was set
    if plain.get("signature_version") is UNSIGNED:
        plain["signature_version"] = _UNSIGNED
    return plain


def _from_plain(
    session: tuple[tuple[str, Any], ...],
    client: tuple[tuple[str, Any], ...],
    max_concurrency: int,
    check_digests: bool,  # noqa: FBT001  # pickle passes by position
    engine: Engine,
) -> Options:
    kwargs = dict(client)
    if "config" in kwargs:
        from botocore import UNSIGNED
        from botocore.config import Config

        config = dict(kwargs["config"])
        if config.get("signature_version") == _UNSIGNED:
            config["signature_version"] = UNSIGNED
        kwargs["config"] = Config(**config)
    return Options(dict(session), kwargs, max_concurrency=max_concurrency, check_digests=check_digests, engine=engine)


def _frozen(session_kwargs: dict[str, Any], client_kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both with region, credentials and endpoint of the default session written out."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        session = _default_session(session_kwargs)
        if not getattr(client_kwargs.get("config"), "ignore_configured_endpoint_urls", False):
            client_kwargs = {**_endpoint(session), **client_kwargs}
        region = {"region_name": session.region_name} if session.region_name else {}
        credentials = session.get_credentials()
        if credentials is None:
            return {**region, **session_kwargs}, client_kwargs
        now = credentials.get_frozen_credentials()
    except (BotoCoreError, ClientError) as exc:
        remedy = "mend the AWS configuration, or give Options(...)"
        raise store_error(PermissionError, f"{exc}; {remedy}", code=NO_CREDENTIALS) from exc
    values = (now.access_key, now.secret_key, now.token)
    keys = {name: value for name, value in zip(_CREDENTIALS, values, strict=True) if value}
    # written out, the profile is done with; a worker may not have it
    rest = {name: value for name, value in session_kwargs.items() if name != "profile_name"}
    return {**region, **keys, **rest}, client_kwargs


def _default_session(given: dict[str, Any]) -> Any:  # noqa: ANN401  # boto3 has no types
    import boto3

    default = boto3.DEFAULT_SESSION
    if default is None or not given.keys().isdisjoint(("profile_name", *_CREDENTIALS)):
        return boto3.Session(**given)
    credentials = default.get_credentials()
    if credentials is not None and credentials.method in {"env", "shared-credentials-file", "config-file"}:
        # these are read once per session: only a new one sees rotated keys and a changed environment
        profile = default._session.get_config_variable("profile")  # noqa: SLF001  # the property says "default" for none
        return boto3.Session(**{"profile_name": profile, "region_name": default.region_name, **given})
    return default


def _endpoint(session: Any) -> dict[str, str]:  # noqa: ANN401  # boto3 has no types
    """Return the endpoint that the environment or profile sets for S3, which a worker's environment may lack."""
    from botocore.configprovider import ConfiguredEndpointProvider

    core = session._session  # noqa: SLF001  # boto3 offers no public way to its botocore session
    if core.get_config_variable("ignore_configured_endpoint_urls"):
        return {}
    provider = ConfiguredEndpointProvider(
        full_config=core.full_config, scoped_config=core.get_scoped_config(), client_name="s3", environ=os.environ
    )
    url = provider.provide()
    return {"endpoint_url": url} if url else {}
