"""How a store is reached: plain data that pickles, and one boto3 session and client per process made from it."""

from __future__ import annotations

import hashlib
import os
import re
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from file_dataset import _defaults, _per_process, _secrets
from file_dataset._defaults import CREDENTIALS
from file_dataset._errors import NO_CREDENTIALS, InvalidDatasetError, store_error

if TYPE_CHECKING:
    import ssl

Engine: TypeAlias = Literal["auto", "boto3"]

# What a repr may show; every other value is masked, so that a new kind of secret is masked too.
_SHOWN = {"region_name", "profile_name", "endpoint_url", "use_ssl", "verify", "api_version", "aws_account_id"}
_SHOWN_CONFIG = {
    "region_name", "signature_version", "connect_timeout", "read_timeout", "max_pool_connections", "s3", "retries",
    "request_checksum_calculation", "response_checksum_validation", "use_fips_endpoint", "use_dualstack_endpoint",
}  # fmt: skip
_CHOICES = ("max_concurrency", "check_digests", "engine", "local_paths")
_UNSIGNED = "unsigned"
# s3transfer's own default is 5 too (boto3.s3.transfer.TransferConfig.num_download_attempts)
_ATTEMPTS = 5
# as botocore's own rule, which also takes an empty name and a line break at the end: no request can be signed for those
_REGION = re.compile("[A-Za-z0-9-]+")

# by identity of their options, for as long as anything holds them
_clients: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
os.register_at_fork(after_in_child=_clients.clear)


@dataclass(frozen=True, eq=False, repr=False, match_args=False)
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
        local_paths: False refuses local inputs and outputs: for frames that strangers write. A local cell costs its row
            in a Pipeline and raises in a reader; a local `into_path` is refused at once. What `write_files` stores, and
            what fn returns, is local all the same.

    Raises:
        InvalidDatasetError: an argument that cannot be pickled or has no meaning.

    Example:
        >>> minio = Options(
        ...     {"aws_access_key_id": "user", "aws_secret_access_key": "password"},
        ...     {"endpoint_url": "https://minio.example:9000"},
        ... )
        >>> "password" in repr(minio)
        False
        >>> mine = Options.default(max_concurrency=16)  # as boto3 would reach S3 here and now
    """

    session_kwargs: Mapping[str, Any] | None = None
    s3_client_kwargs: Mapping[str, Any] | None = None
    max_concurrency: int = field(default=64, kw_only=True)
    check_digests: bool = field(default=True, kw_only=True)
    engine: Engine = field(default="auto", kw_only=True)
    local_paths: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        """Check the arguments and copy them."""
        for name in ("session_kwargs", "s3_client_kwargs"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Mapping):
                raise InvalidDatasetError(f"{name} is a {type(value).__name__}: give a mapping of keyword arguments")
            object.__setattr__(self, name, {k: v for k, v in (value or {}).items() if k != "config" or v is not None})
        session, client = _kwargs(self)
        _check_config(client.get("config"))
        _check_secrets(session, client)
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
        if not isinstance(self.local_paths, bool):
            raise InvalidDatasetError(f"local_paths={self.local_paths!r}: give True or False")

    @classmethod
    def default(  # noqa: PLR0913  # what the constructor takes
        cls,
        session_kwargs: Mapping[str, Any] | None = None,
        s3_client_kwargs: Mapping[str, Any] | None = None,
        *,
        max_concurrency: int = 64,
        check_digests: bool = True,
        engine: Engine = "auto",
        local_paths: bool = True,
    ) -> Options:
        """Return options with all that boto3's default session, or a named profile, says of S3, frozen.

        That is: credentials, region, endpoint, CA bundle, retries and the other S3 settings of profile and environment,
        as they are at the call. So the process that starts a job hands its own access to workers that have none. What
        is given is merged over it, a `Config` value by value. Without credentials here, the options hold none: local
        paths still work, and the first use of S3 says what is missing.

        Raises:
            PermissionError: the default session names credentials that it cannot get: an unknown profile, say.
        """
        given = cls(
            session_kwargs,
            s3_client_kwargs,
            max_concurrency=max_concurrency,
            check_digests=check_digests,
            engine=engine,
            local_paths=local_paths,
        )
        session, client = _frozen(*map(dict, _kwargs(given)))
        return replace(given, session_kwargs=session, s3_client_kwargs=client)

    @property
    def session(self) -> Any:  # noqa: ANN401  # boto3 has no types
        """The `boto3.Session`: made on first use, one per process and options, safe between threads."""
        return _per_process.recent(("session", identity(self)), lambda: new_session(self))

    @property
    def s3_client(self) -> Any:  # noqa: ANN401  # boto3 has no types
        """The boto3 S3 client: made on first use, one per process and options, safe between threads."""
        key = identity(self)

        def make() -> Any:  # noqa: ANN401  # boto3 has no types
            # one that was let go here, and that the caller still holds, may have handlers of his
            return _clients.get(key) or _clients.setdefault(key, new_client(self, self.session))

        return _per_process.recent(("client", key), make)

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
        parts += [f"{name}={getattr(self, name)!r}" for name in _CHOICES]
        return f"Options({', '.join(parts)})"


def _check_secrets(session: Mapping[str, Any], client: Mapping[str, Any]) -> None:
    proxies: Any = getattr(client.get("config"), "proxies", None) or {}
    for url in (client.get("endpoint_url"), *proxies.values()):
        _secrets.remember_url(url)
    for kwargs in (session, client):
        _secrets.remember(kwargs.get(name) for name in CREDENTIALS[1:])
        for name in CREDENTIALS:
            if fault := _defaults.fault_of(name, kwargs.get(name)):
                raise InvalidDatasetError(f"{name} {fault}")


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


def client_of(key: str) -> Any:  # noqa: ANN401  # boto3 has no types
    """Return the `s3_client` of the options of this identity, None where it was never asked for."""
    return _clients.get(key)


def config_of(options: Options, session: Any) -> Any:  # noqa: ANN401  # botocore has no types
    """Return the `Config` of the options over the session's default one."""
    from botocore.config import Config

    own = session._session.get_default_client_config()  # noqa: SLF001  # boto3 has no name for it
    return _defaults.merged(own, _kwargs(options)[1].get("config")) or Config()


def attempts(options: Options, session: Any) -> int:  # noqa: ANN401  # boto3 has no types
    """Return the attempts per HTTP request: of the `Config`, else of environment or profile (max_attempts), else 5."""
    retries = config_of(options, session).retries or {}
    if "total_max_attempts" not in retries and "max_attempts" in retries:
        return int(retries["max_attempts"]) + 1  # botocore's max_attempts of a Config does not count the first attempt
    count = retries.get("total_max_attempts")
    if count is None:
        count = session._session.get_config_variable("max_attempts")  # noqa: SLF001
    return _ATTEMPTS if count is None else max(1, int(count))


def has_credentials(options: Options) -> bool:
    """Tell whether credentials are part of the options, rather than looked up by the process that uses them."""
    return any(name in kwargs for kwargs in _kwargs(options) for name in CREDENTIALS)


def without_credentials(options: Options) -> Options:
    """Return the same options for the process's own chain of credentials."""
    session, client = ({k: v for k, v in kwargs.items() if k not in CREDENTIALS} for kwargs in _kwargs(options))
    return replace(options, session_kwargs=session, s3_client_kwargs=client)


def new_session(options: Options) -> Any:  # noqa: ANN401  # boto3 has no types
    """Return a new `boto3.Session`.

    Raises:
        PermissionError: half of a pair of keys.
        InvalidDatasetError: an argument that boto3 does not know.
    """
    import boto3

    session_kwargs = _kwargs(options)[0]
    if missing := [name for name in CREDENTIALS[:2] if not session_kwargs.get(name)]:
        given = [name for name in CREDENTIALS if session_kwargs.get(name)]
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
        PermissionError: there are none, or they cannot be sent.
    """
    client = _kwargs(options)[1]
    if client.get(CREDENTIALS[0]) and client.get(CREDENTIALS[1]):
        return client[CREDENTIALS[0]], client[CREDENTIALS[1]], client.get(CREDENTIALS[2])
    credentials = session.get_credentials()
    if credentials is None:
        raise store_error(PermissionError, "there are no credentials", code=NO_CREDENTIALS)
    return _defaults.checked(credentials)


def verify(options: Options, session: Any) -> tuple[bool | str, str]:  # noqa: ANN401  # boto3 has no types
    """Return which certificates are trusted, and who says so: a CA file or directory, True: the usual, False: any."""
    given: bool | str | None = _kwargs(options)[1].get("verify")
    if given is not None:
        return given, "verify= of the Options"
    # where botocore looks too
    return _defaults.ca_bundle(session) or (True, "botocore")


def keeps_alive(session: Any, config: Any) -> bool:  # noqa: ANN401  # boto3 has no types
    """Tell whether connections use TCP keepalive, which botocore does not write into a client's `Config`."""
    return bool(config.tcp_keepalive or _defaults.is_set(session, "tcp_keepalive"))


def new_client(options: Options, session: Any, *, one_attempt: bool = False) -> Any:  # noqa: ANN401  # boto3 has no types
    """Return a new S3 client; with `one_attempt` botocore itself retries nothing and compares no digests."""
    from botocore.config import Config

    kwargs = {name: value for name, value in _kwargs(options)[1].items() if name != "config"}
    given = config_of(options, session)
    mode = (given.retries or {}).get("mode") or _defaults.retry_mode(session) or "adaptive"
    retries = {**(given.retries or {}), "mode": mode}
    ours: dict[str, Any] = {}
    if one_attempt:
        retries = {"mode": mode, "total_max_attempts": 1}
        ours["response_checksum_validation"] = "when_required"
    last: Any = Config(retries=retries, **ours)  # type: ignore[arg-type]  # the stubs know no "mode" in a dict
    config = Config(max_pool_connections=options.max_concurrency).merge(given).merge(last)
    try:
        return session.client("s3", config=config, **kwargs)
    except TypeError as exc:
        raise InvalidDatasetError(f"s3_client_kwargs: {exc}; the arguments of boto3's client() are known") from exc


def check_client(options: Options, session: Any, client: Any) -> None:  # noqa: ANN401  # boto3 has no types
    """Refuse what no request of this client can work with: files that are not there, or that are no CA.

    Raises:
        InvalidDatasetError: saying which, and where it was named.
        PermissionError: credentials that cannot be sent.
    """
    from botocore import UNSIGNED
    from botocore.auth import AUTH_TYPE_MAPS

    config = client.meta.config
    version = config.signature_version
    if version is not UNSIGNED:
        region = client.meta.region_name
        if region is not None and not _REGION.fullmatch(region):
            raise InvalidDatasetError(f"region_name {region!r} is no region: correct it, or unset AWS_DEFAULT_REGION")
        if isinstance(version, str) and version not in AUTH_TYPE_MAPS:
            raise InvalidDatasetError(f"signature_version {version!r} of the Config is unknown: give 's3v4'")
        credentials = session.get_credentials()
        if credentials is not None:
            _defaults.checked(credentials)
    if not client.meta.endpoint_url.startswith("https://"):
        return
    path, by = verify(options, session)
    if isinstance(path, str):
        context(path, by)
    certificates = _several(config.client_cert)
    proxies = config.proxies_config or {}
    more = (proxies.get("proxy_ca_bundle"), *_several(proxies.get("proxy_client_cert")))
    for name, paths in (("client_cert of the Config", certificates), ("proxies_config of the Config", more)):
        for found in paths:
            if isinstance(found, str):
                _check_file(found, name)


def _several(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _check_file(path: str, by: str) -> None:
    try:
        if not os.path.isdir(path):  # noqa: PTH112
            with open(path, "rb"):  # noqa: PTH123  # a path as it was given
                pass
    except OSError as exc:
        raise InvalidDatasetError(f"{by} names {path}: {exc.strerror}; give the path of a file in PEM format") from exc


def context(path: str | None, by: str) -> ssl.SSLContext:
    """Return a TLS context that trusts the CA file or directory; None: those that botocore trusts.

    Raises:
        InvalidDatasetError: it is not there, or is no CA file.
    """
    import ssl

    from botocore.httpsession import get_cert_path

    if path is not None:
        _check_file(path, by)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if path is not None and os.path.isdir(path):  # noqa: PTH112
            made.load_verify_locations(capath=path)
        else:
            made.load_verify_locations(path or get_cert_path(True))  # noqa: FBT003  # botocore's
    except OSError as exc:  # SSLError is one
        raise InvalidDatasetError(f"{by} names {path}, which holds no certificate in PEM format: {exc}") from exc
    return made


def check(options: object) -> None:
    """Refuse what is not None and no `Options`.

    Raises:
        InvalidDatasetError: saying what it is.
    """
    if options is not None and not isinstance(options, Options):
        raise InvalidDatasetError(f"options is a {type(options).__name__}: give file_dataset.Options")


def takes_local_paths(options: Options | None) -> bool:
    """Tell whether locations may be local."""
    return options is None or options.local_paths


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
        options.local_paths,
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


def _from_plain(  # noqa: PLR0913, PLR0917  # pickle passes by position
    session: tuple[tuple[str, Any], ...],
    client: tuple[tuple[str, Any], ...],
    max_concurrency: int,
    check_digests: bool,  # noqa: FBT001  # pickle passes by position
    engine: Engine,
    local_paths: bool = True,  # noqa: FBT001, FBT002  # the same; pickles of earlier versions have none
) -> Options:
    kwargs = dict(client)
    if "config" in kwargs:
        from botocore import UNSIGNED
        from botocore.config import Config

        config = dict(kwargs["config"])
        if config.get("signature_version") == _UNSIGNED:
            config["signature_version"] = UNSIGNED
        kwargs["config"] = Config(**config)
    return Options(
        dict(session),
        kwargs,
        max_concurrency=max_concurrency,
        check_digests=check_digests,
        engine=engine,
        local_paths=local_paths,
    )


def _frozen(session_kwargs: dict[str, Any], client_kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both with what the default session, or the profile that is given, says of S3 written out."""
    from botocore.exceptions import BotoCoreError, ClientError

    session = _defaults.source(session_kwargs).session
    try:
        config = _defaults.merged(_defaults.settings(session), client_kwargs.get("config"))
        is_plain = getattr(config, "ignore_configured_endpoint_urls", None)
        url = None if is_plain else _defaults.endpoint(session)
        ca = _defaults.ca_bundle(session)
        credentials = session.get_credentials()
        keys = None if credentials is None else _defaults.checked(credentials)
    except (BotoCoreError, ClientError) as exc:
        raise _defaults.lost(exc) from None
    found = {"endpoint_url": url, "verify": ca and ca[0], **client_kwargs, "config": config}
    client = {name: value for name, value in found.items() if value is not None or name in client_kwargs}
    region = {"region_name": session.region_name} if session.region_name else {}
    if keys is None:
        return {**region, **session_kwargs}, client
    # written out, the profile is done with; a worker may not have it
    rest = {name: value for name, value in session_kwargs.items() if name != "profile_name"}
    return {**region, **{name: value for name, value in zip(CREDENTIALS, keys, strict=True) if value}, **rest}, client
