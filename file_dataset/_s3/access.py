"""The client and the credentials in use: made for the first request, and anew when the credentials have expired."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore import exceptions as boto

from file_dataset import _defaults, _options, _secrets, _sessions
from file_dataset._errors import InvalidDatasetError, code_of, store_error
from file_dataset._s3 import errors
from file_dataset._s3.route import Router

if TYPE_CHECKING:
    from file_dataset._defaults import Source
    from file_dataset._options import Options

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """One set of credentials in use: the session that has them, its client, and the routes that the client gave."""

    session: Any
    client: Any
    router: Router
    attempts: int  # per request
    asks_for_digests: bool  # of each GET and HEAD, beside what the user configured


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
        self._has_fallen_back = False

    def get(self) -> Access:
        """Return the access; the first call makes the client, and may fetch credentials.

        Raises:
            InvalidDatasetError: no request of these options can work: a CA file is not there, say.
            PermissionError: the credentials cannot be had, or cannot be sent.
        """
        if (held := self.held) is not None:
            return held
        with self._lock:
            if self.held is None:
                self.held = self._connected(self._options)
            return self.held

    def _connected(self, options: Options, *, anew: bool = False) -> Access:
        source = self._source
        kwargs = options.s3_client_kwargs or {}
        try:
            if source is not None:
                session = _defaults.again(source.session) if anew else source.session
            else:
                session = _sessions.new_session(options.session_kwargs or {}) if anew else options.session
            client = _sessions.new_client(kwargs, session, options.max_concurrency, one_attempt=True)
            _sessions.check_client(kwargs, session, client)
            count = _sessions.attempts(kwargs, session)
        except errors.LOST as exc:
            raise errors.os_error(exc) from None
        except (boto.BotoCoreError, ValueError) as exc:  # no request can ever be made: a region with a space in it, say
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
        return Access(session, client, Router(options, session, client, own), count, asks_for_digests)

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
            keys = _sessions.keys_of(access.session)
            if keys is None or keys == _sessions.keys_of(expired.session):
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
            self.held, self._has_fallen_back = access, True


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
