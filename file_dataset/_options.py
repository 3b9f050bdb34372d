"""The value `Options`: how a store is reached, as plain data that is checked, masked, pickled and compared."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from file_dataset import _defaults, _secrets, _sessions
from file_dataset._defaults import CREDENTIALS
from file_dataset._errors import InvalidDatasetError

if TYPE_CHECKING:
    from file_dataset._sessions import S3Client, Session

Engine: TypeAlias = Literal["auto", "boto3"]

# What a repr may show; every other value is masked, so that a new kind of secret is masked too.
_SHOWN = {"region_name", "profile_name", "endpoint_url", "use_ssl", "verify", "api_version", "aws_account_id"}
_SHOWN_CONFIG = {
    "region_name", "signature_version", "connect_timeout", "read_timeout", "max_pool_connections", "s3", "retries",
    "request_checksum_calculation", "response_checksum_validation", "use_fips_endpoint", "use_dualstack_endpoint",
}  # fmt: skip
_CHOICES = ("max_concurrency", "check_digests", "engine", "local_paths")


@dataclass(frozen=True, eq=False, repr=False, match_args=False)
class Options:
    """How a store is reached.

    Always picklable, before and after use. **A pickle of options with credentials in them holds these secrets**: treat
    it as one. `repr` and `str` mask them.

    Args:
        session_kwargs: for `boto3.Session(...)`.
        s3_client_kwargs: for `session.client("s3", ...)`; its `config` is merged over one with adaptive retries.
        max_concurrency: requests in flight per process and options, at most. None: 64 to begin with, twice as many
            where they bring more, up to 512; always within half of the free file descriptors.
        check_digests: compare the digest that the store offers; length and version are always compared.
        engine: what moves the bytes: `"boto3"`, or `"auto"` for the fastest that is there.
        local_paths: False refuses local inputs and outputs: for frames that strangers write. A local cell fails its row
            in a Pipeline, and raises in a reader. A local `into_path` is refused at once. The files that `write_files`
            stores, and those that fn returns, may be local.

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
    max_concurrency: int | None = field(default=None, kw_only=True)
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
        _sessions.check_config(client.get("config"))
        _check_secrets(session, client)
        url = client.get("endpoint_url")
        if url is not None and not (isinstance(url, str) and url.startswith(("http://", "https://"))):
            raise InvalidDatasetError("endpoint_url: give it whole, such as https://minio.example:9000")
        if "botocore_session" in session:
            raise InvalidDatasetError(
                "botocore_session cannot be pickled: give profile_name or the credentials instead"
            )
        width = self.max_concurrency
        if width is not None and (isinstance(width, bool) or not isinstance(width, int) or width < 1):
            raise InvalidDatasetError(f"max_concurrency={width!r}: give a whole number of at least 1, or None")
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
        max_concurrency: int | None = None,
        check_digests: bool = True,
        engine: Engine = "auto",
        local_paths: bool = True,
    ) -> Options:
        """Return options with all that boto3's default session, or a named profile, sets of S3, frozen.

        That is: credentials, region, endpoint, CA bundle, retries and the other S3 settings of profile and environment,
        as they are at the call. So the process that starts a job hands its own access to workers that have none. What
        is given is merged over it, a `Config` value by value. Without credentials here, the options hold none: local
        paths still work, and the first use of S3 raises for what is missing.

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
        session, client = _defaults.frozen(*_kwargs(given))
        return replace(given, session_kwargs=session, s3_client_kwargs=client)

    @property
    def session(self) -> Session:
        """The `boto3.Session`: made on first use, one per process and options, safe between threads."""
        return _sessions.shared_session(identity(self), _kwargs(self)[0])

    @property
    def s3_client(self) -> S3Client:
        """The boto3 S3 client: made on first use, one per process and options, safe between threads."""
        return _sessions.shared_client(identity(self), *_kwargs(self), self.max_concurrency)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle plain data; sessions and clients stay in their process."""
        return _from_plain, _plain(self)

    def __eq__(self, other: object) -> bool:
        """Return whether both reach the same store in the same way."""
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


def identity(options: Options) -> str:
    """Return a hash of everything in the options: equal ones share a session, a client and a pool."""
    return hashlib.sha256(repr(_ordered(_plain(options))).encode("utf-8", "surrogatepass")).hexdigest()


def _ordered(value: Any) -> Any:  # noqa: ANN401  # plain data
    """Return mappings as sorted pairs, at every depth: their order means nothing."""
    if isinstance(value, Mapping):
        return tuple((name, _ordered(inner)) for name, inner in sorted(value.items()))
    return tuple(map(_ordered, value)) if isinstance(value, tuple) else value


def has_credentials(options: Options) -> bool:
    """Return whether credentials are part of the options, rather than looked up by the process that uses them."""
    return any(name in kwargs for kwargs in _kwargs(options) for name in CREDENTIALS)


def without_credentials(options: Options) -> Options:
    """Return the same options for the process's own chain of credentials."""
    session, client = ({k: v for k, v in kwargs.items() if k not in CREDENTIALS} for kwargs in _kwargs(options))
    return replace(options, session_kwargs=session, s3_client_kwargs=client)


def check(options: object) -> None:
    """Refuse what is not None and no `Options`.

    Raises:
        InvalidDatasetError: naming what it is.
    """
    if options is not None and not isinstance(options, Options):
        raise InvalidDatasetError(f"options is a {type(options).__name__}: give file_dataset.Options")


def takes_local_paths(options: Options | None) -> bool:
    """Return whether locations may be local."""
    return options is None or options.local_paths


def _kwargs(options: Options) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return options.session_kwargs or {}, options.s3_client_kwargs or {}


def _plain(options: Options) -> tuple[Any, ...]:
    """Return everything as plain data: botocore's UNSIGNED does not survive pickle, its Config only without it."""
    session, client = _kwargs(options)
    plain = dict(client)
    if (config := plain.pop("config", None)) is not None:
        plain["config"] = _sessions.plain_config(config)
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
            options = {k: v if k in _SHOWN_CONFIG else "***" for k, v in _sessions.plain_config(value).items()}
            text = f"Config({options})"
        else:
            # up to the last @: a password that was not quoted may hold anything
            text = re.sub(r"(?<=://).*@", "***@", repr(value)) if name in _SHOWN else "'***'"
        shown.append(f"{name!r}: {text}")
    return "{" + ", ".join(shown) + "}"


def _from_plain(  # noqa: PLR0913, PLR0917  # pickle passes by position
    session: tuple[tuple[str, Any], ...],
    client: tuple[tuple[str, Any], ...],
    max_concurrency: int | None,
    check_digests: bool,  # noqa: FBT001  # pickle passes by position
    engine: Engine,
    local_paths: bool,  # noqa: FBT001  # the same
) -> Options:
    kwargs = dict(client)
    if "config" in kwargs:
        kwargs["config"] = _sessions.config_of_plain(kwargs["config"])
    return Options(
        dict(session),
        kwargs,
        max_concurrency=max_concurrency,
        check_digests=check_digests,
        engine=engine,
        local_paths=local_paths,
    )
