"""An S3 server on loopback for the demo: moto's, in a process of its own that ends with its parent."""

import logging
import signal
import sys

from moto.server import ThreadedMotoServer


def main() -> None:
    """Serve on a free port, print the URL, and stop when standard input ends."""
    # a terminal's Ctrl-C reaches the whole group; this process ends when its parent has done with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
