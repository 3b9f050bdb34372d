"""The credentials in use and how requests are made with them: for the first request, and anew when they have expired.

A plain S3 needs no client of boto3's until something is left to boto3 (`_plain` says why that is worth it).
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from file_dataset import _defaults, _options, _plain, _secrets, _sessions
from file_dataset._errors import InvalidDatasetError, code_of, store_error
from file_dataset._s3 import extra_args
from file_dataset._s3.plain_router import PlainRouter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from file_dataset._defaults import Source
    from file_dataset._options import Options
    from file_dataset._plain import Plain
    from file_dataset._s3.router import Router

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """One set of credentials in use: the routes, and the session and client that gave them."""

    router: Router | PlainRouter
    attempts: int  # per request
    asks_for_digests: bool  # of each GET and HEAD, beside what the user configured
    session: Any = None  # this and `client` None: a plain S3, which none was needed for
    client: Any = None

    @property
    def is_plain(self) -> bool:
        """Whether there is no client."""
        return self.client is None

    @property
    def endpoint_url(self) -> str:
        """Where requests go that are for no bucket."""
        return str(self.router.endpoint_url if isinstance(self.router, PlainRouter) else self.client.meta.endpoint_url)

    def algorithm(self, extra: Mapping[str, Any]) -> str | None:
        """Return the checksum that goes along with an upload; None: none of ours."""
        if self.is_plain:
            return None if extra_args.has_checksum(extra) else extra_args.ALGORITHM
        return extra_args.algorithm(self.client, extra)

    def keys(self) -> tuple[str, str | None] | None:
        """Return access key id and token; None: there are none."""
        return self.router.keys if isinstance(self.router, PlainRouter) else _sessions.keys_of(self.session)


class CurrentAccess:
    """The access in use. When credentials that came with the options expire, the process's own chain takes over."""

    def __init__(self, options: Options, source: Source | None) -> None:
        """Make no client yet.

        Args:
            options: how S3 is reached.
            source: the session of `options=None`; None: that of the options.
        """
        self._options, self._source = options, source
        self._lock = threading.Lock()
        self.held: Access | None = None  # None: there was no request yet
        self._found: Plain | None = None  # what requests began with, which they go on with when a client is needed
        self._has_fallen_back = False

    def get(self, bucket: str | None = None) -> Access:
        """Return the access; the first call may make the client, and fetch credentials.

        Args:
            bucket: it has a route for this one, or boto3's client.

        Raises:
            InvalidDatasetError: no request of these options can work: a CA file is not there, say.
            PermissionError: the credentials cannot be had, or cannot be sent.
        """
        if (held := self.held) is None:
            with self._lock:
                if self.held is None:
                    self.held = self._plain() or self._connected(self._options)
                held = self.held
        if bucket is None or not isinstance(held.router, PlainRouter) or held.router.knows(bucket):
            return held
        return self.connected(held)

    def connected(self, access: Access) -> Access:
        """Return the access with a client of boto3's; raises as `get` does."""
        if not access.is_plain:
            return access
        with self._lock:
            if self.held is None or self.held.is_plain:
                self.held = self._connected(self._options)
            return self.held

    def look(self) -> None:
        """See who may answer requests by now; a plain access is let go where boto3 was loaded, which mocks need."""
        held = self.held
        if held is None:
            return
        if not isinstance(held.router, PlainRouter):
            held.router.look()
        elif not _plain.may_be():
            with self._lock:
                if self.held is held:
                    self.held = None

    def _plain(self) -> Access | None:
        options = self._options
        if options.engine == "boto3" or not _plain.may_be():
            return None
        found = _plain.find(options.session_kwargs or {}, options.s3_client_kwargs or {})
        if found is None:
            return None
        self._found = found
        router = PlainRouter(found, asks_for_digests=options.check_digests)
        return Access(router, _sessions.ATTEMPTS, options.check_digests)

    def _connected(self, options: Options, *, anew: bool = False) -> Access:
        from botocore.exceptions import BotoCoreError

        from file_dataset._s3 import boto_errors
        from file_dataset._s3.router import Router

        source, pinned = self._source, None if anew else self._moved_from()
        if pinned is not None:
            options = replace(options, s3_client_kwargs=_plain.pinned_client_kwargs(pinned))
        kwargs = options.s3_client_kwargs or {}
        try:
            if pinned is not None:
                session = _plain.pinned_session(pinned)
            elif source is not None:
                session = _defaults.again(source.session) if anew else source.session
            else:
                session = _sessions.new_session(options.session_kwargs or {}) if anew else options.session
            client = _sessions.new_client(kwargs, session, options.max_concurrency, one_attempt=True)
            _sessions.check_client(kwargs, session, client)
            count = _sessions.attempts(kwargs, session)
        except boto_errors.LOST as exc:
            raise boto_errors.os_error(exc) from None
        except (BotoCoreError, ValueError) as exc:  # no request can ever be made: a region with a space in it, say
            if isinstance(exc, InvalidDatasetError):
                raise
            message = _secrets.without_userinfo(_secrets.masked(str(exc)))
            raise InvalidDatasetError(f"these Options make no S3 client: {message}") from None
        asks_for_digests = options.check_digests and _asks_for_digests(options, session)
        if asks_for_digests:
            for operation in ("GetObject", "HeadObject"):
                client.meta.events.register(f"before-call.s3.{operation}", _ask_for_digest)
        client.meta.events.register("before-sign.s3", _check_credentials)
        # what the user registers on the `s3_client` of the options given here, whatever credentials are in use by now
        own = _options.identity(self._options) if source is None else None
        return Access(Router(options, session, client, own), count, asks_for_digests, session, client)

    def _moved_from(self) -> Plain | None:
        """Return what requests began with, if environment or profile say something else by now: fn may have set them.

        Files of one row would lie in different accounts.
        """
        options, found = self._options, self._found
        if found is None or found == _plain.find(options.session_kwargs or {}, options.s3_client_kwargs or {}):
            return None
        return found

    def renew(self, expired: Access, error: OSError) -> None:
        """Go on with newer credentials: those of this process's own chain, read afresh.

        Raises:
            PermissionError: it has none, or the very ones that expired.
        """
        with self._lock:
            if self.held is not expired:
                return  # another thread was first
            if self._source is not None:
                _defaults.forget(self._source)
            access = self._connected(_options.without_credentials(self._options), anew=True)
            keys = access.keys()
            if keys is None or keys == expired.keys():
                reason = "this process has none of its own" if keys is None else "this process's own are the same"
                remedy = "renew them, or give workers a role, a profile or the AWS_* variables"
                message = f"{error.strerror} (the credentials in use expired, and {reason}: {remedy})"
                raise store_error(PermissionError, message, code=code_of(error)) from error
            if not self._has_fallen_back and _options.has_credentials(self._options):
                logger.warning(
                    "the credentials frozen into the Options expired (%s); going on with this process's own (%s)",
                    code_of(error),
                    access.session.get_credentials().method,
                )
            self.held, self._has_fallen_back, self._found = access, True, None


def _asks_for_digests(options: Options, session: Any) -> bool:  # noqa: ANN401  # boto3 has no types
    given = _sessions.config_of(options.s3_client_kwargs or {}, session).response_checksum_validation
    if given is None:
        given = session._session.get_config_variable("response_checksum_validation")  # noqa: SLF001
    return bool(given != "when_required")


def _check_credentials(request_signer: Any, **_: object) -> None:  # noqa: ANN401  # boto3 has no types
    # what botocore has just refreshed was seen by nothing of ours yet
    credentials = request_signer._credentials  # noqa: SLF001  # boto3 has no name for it
    if credentials is not None:
        _defaults.checked(credentials)


def _ask_for_digest(params: dict[str, Any], **_: object) -> None:
    # as a header of our own: as boto3's argument it would make botocore compute the same digest a second time
    params["headers"]["x-amz-checksum-mode"] = "ENABLED"
