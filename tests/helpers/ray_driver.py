"""Starts the documentation's deployment on a Ray of its own, announces it, and ends it when its input ends.

It is run by the Python in which Ray is installed, with the folder of the deployment's module as its only argument.
"""

import socket
import sys

import ray
from ray import serve

sys.path.insert(0, sys.argv[1])

from ray_serve import app  # type: ignore[import-not-found]

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
try:
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(app)
    print(f"serving at http://127.0.0.1:{port}", flush=True)  # noqa: T201
    sys.stdin.read()
finally:
    serve.shutdown()
    ray.shutdown()
