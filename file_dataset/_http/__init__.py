"""HTTP/1.1 over kept-alive connections on a loop thread: bytes in, bytes out. Knows no S3."""
