"""`polarity serve`: the JSON API of a run, until it is interrupted."""

import ipaddress
import signal
import threading
from contextlib import suppress
from importlib.util import find_spec

from polarity.config import ClusterConfig
from polarity.errors import RunError, Say
from polarity.paths import absolute
from polarity.predict.batch import ScoreOptions


def start(options: ScoreOptions, *, host: str, port: int, replicas: int, say: Say) -> str:
    """Start the service on the cluster, or on this machine, and return its address.

    Raises RunError where the extra is missing, the run cannot be used, the port is taken, or the cluster has too few CPUs.
    """
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise RunError('polarity serve needs Ray Serve: pip install "polarity[serve]"')
    options = ScoreOptions(absolute(options.run), options.raw, options.votes, options.device, options.batch_size)
    options.load()  # what is wrong with the run is said here, in its own words
    _check_port(host, port)

    import ray
    from ray import serve

    from polarity.predict.batch import actor_resources
    from polarity.predict.serve import Service
    from polarity.train.cluster import start_ray

    start_ray(ClusterConfig(), say)
    each = actor_resources(ray.cluster_resources(), replicas, options.device)
    serve.start(http_options={"host": host, "port": port}, logging_config={"log_level": "WARNING", "enable_access_log": False})
    resources = {"num_cpus": min(each.cpus, 1.0), "num_gpus": each.gpus}
    service = Service.options(num_replicas=replicas, ray_actor_options=resources).bind(options)  # type: ignore[attr-defined]
    serve.run(service, name="polarity", route_prefix="/")
    return f"http://{host}:{port}"


def serve(options: ScoreOptions, *, host: str, port: int, replicas: int, say: Say = print) -> None:
    """Start the service and keep it until Ctrl-C or SIGTERM, then end it with its replicas."""
    address = start(options, host=host, port=port, replicas=replicas, say=say)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())  # Ray has set one that leaves at once, with status 15
    say(f"serving {options.run} at {address}/predict; {address}/docs describes it; Ctrl-C ends it")
    if not _is_loopback(host):
        say(f"it listens on {host}: whoever reaches that address can use it, there is no password")
    with suppress(KeyboardInterrupt):
        while not stop.wait(1.0):
            pass
    from ray import serve as ray_serve

    ray_serve.shutdown()
    say("stopped")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_port(host: str, port: int) -> None:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RunError(f"{host}:{port} cannot be listened on ({error.strerror}): choose another --port or --host") from error
