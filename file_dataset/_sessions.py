"""boto3 sessions, S3 clients, keys and `Config`s, made of what `Options` holds.

`Kwargs` are `session_kwargs` and `s3_client_kwargs` of `Options`.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from file_dataset import _defaults, _per_process
from file_dataset._defaults import CREDENTIALS
from file_dataset._errors import NO_CREDENTIALS, InvalidDatasetError, store_error

if TYPE_CHECKING:
    import ssl

    import boto3
    import mypy_boto3_s3
    from botocore.config import Config

    # with the stubs installed; without them the types are Any
    Session: TypeAlias = boto3.Session
    S3Client: TypeAlias = mypy_boto3_s3.S3Client

Kwargs: TypeAlias = Mapping[str, Any]

_UNSIGNED = "unsigned"
# s3transfer's own default is 5 too (boto3.s3.transfer.TransferConfig.num_download_attempts)
ATTEMPTS = 5
# as botocore's own rule, which also takes an empty name and a line break at the end: no request can be signed for those
_REGION = re.compile("[A-Za-z0-9-]+")

# by identity of their options, for as long as anything holds them
_clients: weakref.WeakValueDictionary[str, S3Client] = weakref.WeakValueDictionary()
os.register_at_fork(after_in_child=_clients.clear)


def shared_session(identity: str, session_kwargs: Kwargs) -> Session:
    """Return this process's session of the options of this identity."""
    return _per_process.recent(("session", identity), lambda: new_session(session_kwargs))


_CONNECTIONS = 64  # of a boto3 client, where the user sets no bound: as many as our own HTTP begins with


def shared_client(
    identity: str, session_kwargs: Kwargs, client_kwargs: Kwargs, max_concurrency: int | None
) -> S3Client:
    """Return this process's client of the options of this identity."""

    def make() -> S3Client:
        # one that was let go here, and that the caller still holds, may have handlers of his
        if (held := _clients.get(identity)) is not None:
            return held
        session = shared_session(identity, session_kwargs)
        return _clients.setdefault(identity, new_client(client_kwargs, session, max_concurrency))

    return _per_process.recent(("client", identity), make)


def client_of(identity: str) -> Any:  # noqa: ANN401  # its user looks at what the stubs leave out
    """Return the `s3_client` of the options of this identity, None where it was never asked for."""
    return _clients.get(identity)


def new_session(session_kwargs: Kwargs) -> Session:
    """Return a new `boto3.Session`.

    Raises:
        PermissionError: half of a pair of keys.
        InvalidDatasetError: an argument that boto3 does not know.
    """
    import boto3

    if missing := [name for name in CREDENTIALS[:2] if not session_kwargs.get(name)]:
        given = [name for name in CREDENTIALS if session_kwargs.get(name)]
        if given:
            message = f"session_kwargs have {given} without {missing}: give both keys or none"
            raise store_error(PermissionError, message, code=NO_CREDENTIALS)
    try:
        return boto3.Session(**session_kwargs)
    except TypeError as exc:
        raise InvalidDatasetError(f"session_kwargs: {exc}; boto3.Session's own arguments are known") from exc


def new_client(
    client_kwargs: Kwargs, session: Session, max_concurrency: int | None, *, one_attempt: bool = False
) -> S3Client:
    """Return a new S3 client; with `one_attempt` botocore itself retries nothing and compares no digests."""
    from botocore.config import Config

    kwargs = {name: value for name, value in client_kwargs.items() if name != "config"}
    given = config_of(client_kwargs, session)
    mode = (given.retries or {}).get("mode") or _defaults.retry_mode(session) or "adaptive"
    retries = {**(given.retries or {}), "mode": mode}
    ours: dict[str, Any] = {}
    if one_attempt:
        retries = {"mode": mode, "total_max_attempts": 1}
        ours["response_checksum_validation"] = "when_required"
    last: Any = Config(retries=retries, **ours)  # type: ignore[arg-type]  # the stubs know no "mode" in a dict
    config = Config(max_pool_connections=max_concurrency or _CONNECTIONS).merge(given).merge(last)
    try:
        return session.client("s3", config=config, **kwargs)
    except TypeError as exc:
        raise InvalidDatasetError(f"s3_client_kwargs: {exc}; the arguments of boto3's client() are known") from exc


def config_of(client_kwargs: Kwargs, session: Session) -> Any:  # noqa: ANN401  # the stubs know none of its values
    """Return the `Config` of the options over the session's default one."""
    from botocore.config import Config

    own = session._session.get_default_client_config()  # noqa: SLF001  # boto3 has no name for it
    return _defaults.merged(own, client_kwargs.get("config")) or Config()


def attempts(client_kwargs: Kwargs, session: Session) -> int:
    """Return the attempts per HTTP request: of the `Config`, else of environment or profile (max_attempts), else 5."""
    retries = config_of(client_kwargs, session).retries or {}
    if "total_max_attempts" not in retries and "max_attempts" in retries:
        return int(retries["max_attempts"]) + 1  # botocore's max_attempts of a Config does not count the first attempt
    count = retries.get("total_max_attempts")
    if count is None:
        count = session._session.get_config_variable("max_attempts")  # noqa: SLF001
    return ATTEMPTS if count is None else max(1, int(count))


def keeps_alive(session: Session, config: Any) -> bool:  # noqa: ANN401  # the stubs know none of its values
    """Return whether connections use TCP keepalive, which botocore does not write into a client's `Config`."""
    return bool(config.tcp_keepalive or _defaults.is_set(session, "tcp_keepalive"))


# keys


def keys_of(session: Session) -> tuple[str, str | None] | None:
    """Return access key id and token of a session, None where it has none."""
    credentials: Any = session.get_credentials()
    if credentials is None:
        return None
    now = credentials.get_frozen_credentials()
    return now.access_key, now.token


def frozen_keys(client_kwargs: Kwargs, session: Session) -> tuple[str, str, str | None]:
    """Return access key, secret key and token as they are now; refreshable ones may be fetched.

    Raises:
        PermissionError: there are none, or they cannot be sent.
    """
    if client_kwargs.get(CREDENTIALS[0]) and client_kwargs.get(CREDENTIALS[1]):
        return client_kwargs[CREDENTIALS[0]], client_kwargs[CREDENTIALS[1]], client_kwargs.get(CREDENTIALS[2])
    credentials = session.get_credentials()
    if credentials is None:
        raise store_error(PermissionError, "there are no credentials", code=NO_CREDENTIALS)
    return _defaults.checked(credentials)


# what a client cannot work with


def check_client(client_kwargs: Kwargs, session: Session, client: S3Client) -> None:
    """Refuse what no request of this client can work with: files that are not there, or that are no CA.

    Raises:
        InvalidDatasetError: saying which, and where it was named.
        PermissionError: credentials that cannot be sent.
    """
    from botocore import UNSIGNED
    from botocore.auth import AUTH_TYPE_MAPS

    config: Any = client.meta.config  # the stubs know none of its values
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
    path, by = verify(client_kwargs, session)
    if isinstance(path, str):
        tls_context(path, by)
    certificates = _several(config.client_cert)
    proxies: Mapping[str, Any] = config.proxies_config or {}
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


def verify(client_kwargs: Kwargs, session: Session) -> tuple[bool | str, str]:
    """Return which certificates are trusted, and who says so: a CA file or directory, True: the usual, False: any."""
    given: bool | str | None = client_kwargs.get("verify")
    if given is not None:
        return given, "verify= of the Options"
    # where botocore looks too
    return _defaults.ca_bundle(session) or (True, "botocore")


def tls_context(verify: bool | str, by: str) -> ssl.SSLContext:  # noqa: FBT001  # botocore's `verify`
    """Return a TLS context that trusts a CA file or directory, True: what botocore trusts, False: any certificate.

    Raises:
        InvalidDatasetError: it is not there, or is no CA file.
    """
    import ssl

    if isinstance(verify, str):
        _check_file(verify, by)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if verify is False:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
        return made
    path = verify if isinstance(verify, str) else _usual_authorities()
    try:
        if os.path.isdir(path):  # noqa: PTH112
            made.load_verify_locations(capath=path)
        else:
            made.load_verify_locations(path)
    except OSError as exc:  # SSLError is one
        raise InvalidDatasetError(f"{by} names {path}, which holds no certificate in PEM format: {exc}") from exc
    return made


def _usual_authorities() -> str:
    """Return the file that botocore trusts (`botocore.httpsession.get_cert_path`), without loading its HTTP."""
    try:
        from certifi import where
    except ImportError:
        import botocore

        return os.path.join(os.path.dirname(botocore.__file__), "cacert.pem")  # noqa: PTH118, PTH120  # as botocore
    return where()


# a Config as plain data: its UNSIGNED does not survive pickle


def check_config(config: object) -> None:
    """Refuse what is not None and no `Config`.

    Raises:
        InvalidDatasetError: saying what it is.
    """
    if config is None:
        return
    from botocore.config import Config

    if not isinstance(config, Config):
        raise InvalidDatasetError(f"config is a {type(config).__name__}: give a botocore.config.Config")


def plain_config(config: Config) -> dict[str, Any]:
    """Return what was given to a `Config`, ready to be pickled and compared."""
    from botocore import UNSIGNED

    plain = dict(config._user_provided_options)  # type: ignore[attr-defined]  # noqa: SLF001  # the only record of what was set
    if plain.get("signature_version") is UNSIGNED:
        plain["signature_version"] = _UNSIGNED
    return plain


def config_of_plain(plain: Kwargs) -> Config:
    """Return the `Config` that `plain_config` was made of."""
    from botocore import UNSIGNED
    from botocore.config import Config

    given = dict(plain)
    if given.get("signature_version") == _UNSIGNED:
        given["signature_version"] = UNSIGNED
    return Config(**given)
