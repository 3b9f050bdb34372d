"""AWS's client in C as a contender."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from contender import SERIES_ROWS, Contender, Place, keys, table
from endpoint import ACCESS_KEY, BUCKET, REGION, SECRET_KEY

if TYPE_CHECKING:
    import pyarrow as pa
    from endpoint import Workload


class Awscrt(Contender):
    """AWS's client in C."""

    name = "awscrt"
    does = "S3Client.make_request, recv_filepath and send_filepath, all submitted; C: with a region and no more"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        from awscrt import auth, io, s3

        self._s3 = s3
        tls = None
        if place.listener.ca:
            context = io.TlsContextOptions()
            context.override_default_trust_store_from_path(ca_filepath=place.listener.ca)
            tls = io.ClientTlsContext(context).new_connection_options()
        provider = auth.AwsCredentialsProvider.new_static(ACCESS_KEY, SECRET_KEY)
        signing = s3.create_default_s3_signing_config(region=REGION, credential_provider=provider)
        tuning: dict[str, Any] = {}
        if place.in_flight:
            # its default of 10 Gbit/s opens 25 connections, also with the argument of the next line
            tuning = {"throughput_target_gbps": 100, "max_active_connections_override": place.in_flight}
        self._client = s3.S3Client(
            region=REGION,
            signing_config=signing,
            tls_mode=s3.S3RequestTlsMode.ENABLED if tls else s3.S3RequestTlsMode.DISABLED,
            tls_connection_options=tls,
            **tuning,
        )
        self._host = place.listener.url.partition("://")[2]

    def _request(self, method: str, key: str, size: int | None = None, **how: Any) -> Any:
        from awscrt.http import HttpHeaders, HttpRequest

        kinds = {"GET": self._s3.S3RequestType.GET_OBJECT, "PUT": self._s3.S3RequestType.PUT_OBJECT}
        headers = [("host", self._host)]
        if size is not None:
            headers.append(("content-length", str(size)))
        request = HttpRequest(method, f"/{BUCKET}/{key}", HttpHeaders(headers))
        kind = kinds.get(method, self._s3.S3RequestType.DEFAULT)
        return self._client.make_request(request=request, type=kind, **how)

    @staticmethod
    def _wait(requests: list[Any]) -> None:
        for request in requests:
            request.finished_future.result()

    def download(self, workload: Workload, into: Path) -> object:
        self._wait([self._request("GET", key, recv_filepath=str(into / Path(key).name)) for key in keys(workload)])
        return None

    def series(self, workload: Workload, into: Path) -> object:
        """Its names are given: it has no listing of its own."""
        places = [into / f"{row}" for row in range(SERIES_ROWS)]
        for place in places:
            place.mkdir()
        self._wait(
            [
                self._request("GET", key, recv_filepath=str(place / Path(key).name))
                for place in places
                for key in keys(workload)
            ]
        )
        return None

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        self._wait(
            [
                self._request("PUT", f"{prefix}/{name}", workload.size_bytes, send_filepath=str(source / name))
                for name in workload.files
            ]
        )

    def blobs(self, workload: Workload) -> pa.Table:
        bodies = [bytearray() for _ in workload.files]
        self._wait(
            [
                self._request("GET", key, on_body=lambda chunk, offset, body=body, **_: body.extend(chunk))
                for key, body in zip(keys(workload), bodies, strict=True)
            ]
        )
        return table(workload, bodies)

    def sizes(self, workload: Workload) -> pa.Table:
        found: dict[str, int] = {}

        def keep(key: str, headers: list[tuple[str, str]]) -> None:
            found[key] = next(int(value) for name, value in headers if name.lower() == "content-length")

        self._wait(
            [
                self._request(
                    "HEAD",
                    key,
                    operation_name="HeadObject",
                    on_headers=lambda status_code, headers, key=key, **_: keep(key, headers),
                )
                for key in keys(workload)
            ]
        )
        return table(workload, [found[key] for key in keys(workload)])
