"""`transxnet serve` under load, over a long time, and when processes are killed. Clients run on the same machine.

    python benchmarks/serving.py load      # images/s and latency, beside Predictor at batch 8 in one process
    python benchmarks/serving.py soak      # ten minutes of full load, a tenth of it bad requests
    python benchmarks/serving.py faults    # the network's process is killed, and the server stopped, under load

The network is TransXNet-Tiny with random weights if no --checkpoint is given. Options of the server follow --serve. The
exit status is 1 if a criterion fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))
from serving_clients import LOST, Load, load, pictures

SHARE = 0.85  # of the images/s of Predictor
GROWTH = 1.05  # of memory
BACK_SECONDS = 60.0  # until a lost process is replaced

MACHINE = "import json; from transxnet.research.machine import describe_machine as d; print(json.dumps(d('cpu')))"

PREDICTOR = """\
import sys, time
from pathlib import Path
import torch
import transxnet
checkpoint, folder = map(Path, sys.argv[1:])
if not checkpoint.exists():
    torch.manual_seed(0)
    transxnet.save_model(transxnet.create_model("transxnet_tiny"), checkpoint)
predictor = transxnet.Predictor(checkpoint, device="cpu", fuse=True, batch_size=8)
files = sorted(folder.glob("*.jpg"))
predictor(files)
print("true", flush=True)
for line in sys.stdin:
    images, began = 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < float(line):
        predictor(files)
        images += len(files)
    print(images / seconds, flush=True)
"""


@dataclass
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def processes(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def memory(self) -> float:
        """Resident memory of all its processes in MB; pages that they share count for each."""
        return sum(_of(process, lambda one: one.memory_info().rss) for process in self.processes) / 1e6

    def open_files(self) -> int:
        return int(sum(_of(process, lambda one: one.num_fds()) for process in self.processes))


def _of(process: psutil.Process, value: Any) -> float:
    try:
        return float(value(process))
    except psutil.NoSuchProcess:
        return 0.0


@contextlib.contextmanager
def served(checkpoint: Path, folder: Path, *options: str) -> Iterator[Server]:
    """A running server, whose log is in a folder."""
    command = [sys.executable, "-m", "transxnet", "serve", "--checkpoint", str(checkpoint), "--port", "0", *options]
    with tempfile.NamedTemporaryFile("w", suffix=".log", dir=folder, delete=False) as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        found = next((one for line in process.stdout if (one := re.search(r"http://127\.0\.0\.1:(\d+)", line))), None)
        if found is None:
            raise SystemExit(
                f"the server did not start (status {process.wait()}): {Path(log.name).read_text()[-2000:]}"
            )
        threading.Thread(target=process.stdout.read, daemon=True).start()  # whatever else it prints
        yield Server(process, int(found[1]), Path(log.name))
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        finally:
            process.kill()


@contextlib.contextmanager
def predictor(checkpoint: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that measures ``Predictor``; it writes the checkpoint if there is none."""
    command = [sys.executable, "-c", PREDICTOR, str(checkpoint), str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def answer_of(process: subprocess.Popen[str], line: str = "") -> Any:
    """The JSON value that a process prints, after a line was written to it."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line)
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def measure_load(options: argparse.Namespace, checkpoint: Path, files: list[bytes], folder: Path) -> bool:
    """Images/s of server and ``Predictor``, taking turns."""
    settings = {"server, batches of 8": "8", "server, no batches": "1"}
    rates: dict[str, list[float]] = {"Predictor, batches of 8": [], **{name: [] for name in settings}}
    loads: dict[str, list[Load]] = {name: [] for name in settings}
    with predictor(checkpoint, folder) as measured, contextlib.ExitStack() as stack:
        answer_of(measured)
        servers = {
            name: stack.enter_context(served(checkpoint, folder, "--max-batch", size, *options.serve))
            for name, size in settings.items()
        }
        for server in servers.values():
            asyncio.run(load(server.port, files, options.clients, min(2.0, options.seconds)))
        for _ in range(options.rounds):
            rates["Predictor, batches of 8"].append(answer_of(measured, f"{options.seconds}\n"))
            for name, server in servers.items():
                found = asyncio.run(load(server.port, files, options.clients, options.seconds))
                loads[name].append(found)
                rates[name].append(len(found.latencies) / found.seconds)
    print(
        f"{options.rounds} rounds of {options.seconds:g} s, {options.clients} clients, {options.serve or 'defaults'}\n"
    )
    first = statistics.median(rates["Predictor, batches of 8"])
    print("| | images/s | quartiles | share | p50 | p95 | p99 | clients' CPU |")
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    for name, values in rates.items():
        middle = statistics.median(values)
        low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (middle, middle, middle)
        row = f"| {name} | {middle:.1f} | {low:.1f} to {high:.1f} | {middle / first:.3f} |"
        print(row + (_latencies(loads[name]) if name in loads else " | | | |"))
    statuses = sum((one.good for of in loads.values() for one in of), start=Load().good)
    share = statistics.median(rates["server, batches of 8"]) / first
    results = [
        _criterion(share >= SHARE, f"the server reaches {share:.3f} of Predictor ({SHARE} asked for)"),
        _criterion(set(statuses) == {200}, f"every request was answered with 200: {dict(statuses)}"),
    ]
    return all(results)


def _latencies(loads: list[Load]) -> str:
    times = sorted(value for one in loads for value in one.latencies) or [float("nan")]
    shares = "".join(f" {1000 * times[int(len(times) * share)]:.0f} ms |" for share in (0.5, 0.95, 0.99))
    return f"{shares} {sum(one.cpu for one in loads) / sum(one.seconds for one in loads):.0%} |"


def soak(options: argparse.Namespace, checkpoint: Path, files: list[bytes], folder: Path) -> bool:
    """Full load for minutes, with bad requests: failures, memory and open files."""
    seconds = 60 * options.minutes
    samples: list[tuple[float, float]] = []
    with served(checkpoint, folder, *options.serve) as server:

        async def both() -> Load:
            began = time.perf_counter()
            task = asyncio.create_task(load(server.port, files, options.clients, seconds, bad_share=0.1))
            while not task.done():
                samples.append((time.perf_counter() - began, server.memory()))
                await asyncio.wait([task], timeout=min(5.0, seconds / 20))
            return await task

        asyncio.run(load(server.port, files, options.clients, min(5.0, seconds), bad_share=0.3))
        before, pids = _settled_files(server), sorted(one.pid for one in server.processes)
        found = asyncio.run(both())
        after, same = _settled_files(server), pids == sorted(one.pid for one in server.processes)
    settled = min(120.0, seconds / 5)
    early = statistics.median(value for at, value in samples if settled * 0.75 <= at <= settled * 1.25)
    late = statistics.median(value for at, value in samples if at >= samples[-1][0] - settled / 4)
    for at, value in samples[:: max(1, len(samples) // 20)]:
        print(f"{at:6.0f} s  {value:8.1f} MB")
    print(
        f"{found.seconds:.0f} s, {len(found.latencies) / found.seconds:.1f} images/s; good requests: {dict(found.good)}"
    )
    for name, statuses in sorted(found.bad.items()):
        print(f"  {name}: {dict(statuses)}")
    results = [
        _criterion(set(found.good) == {200}, "every good request was answered with 200"),
        _criterion(not found.wrong, f"every bad request was answered as it should be{_list(found.wrong)}"),
        _criterion(late <= GROWTH * early, f"memory at the end {late:.1f} MB, after {settled:.0f} s {early:.1f} MB"),
        _criterion(after <= before, f"open files after it {after}, before it {before}"),
        _criterion(same, "no process was replaced"),
        _criterion("Traceback" not in (log := server.log.read_text()), "no traceback in the server's log"),
    ]
    if not results[-1]:
        print(log[-3000:], file=sys.stderr)
    return all(results)


def _settled_files(server: Server) -> int:
    """Open files when no client is connected; the server is given some time to notice."""
    counts = [server.open_files()]
    for _ in range(20):
        time.sleep(0.25)
        counts.append(server.open_files())
    return min(counts)


def faults(options: argparse.Namespace, checkpoint: Path, files: list[bytes], folder: Path) -> bool:
    """The network's process killed, and the server stopped, under load."""
    with served(checkpoint, folder, *options.serve) as server:
        asyncio.run(load(server.port, files, options.clients, 1.0))
        killed, at = asyncio.run(_interrupted(server, files, options, _kill_network))
        stopped, stop_at = asyncio.run(_interrupted(server, files, options, _terminate))
        status = server.process.wait(timeout=120)
        seconds = time.perf_counter() - stop_at
    print(f"network's process killed: statuses {dict(killed.good)}")
    back = [end - at for began, end, status in killed.events if began > at and status == 200]
    limit = 2 * 8  # the batch in the process, and one that was on its way
    lost = killed.good[500]
    results = [
        _criterion(killed.good[LOST] == 0 and set(killed.good) <= {200, 500, 503}, "every request was answered"),
        _criterion(0 < lost <= limit, f"{lost} requests got 500, from 1 to {limit}"),
        _criterion(bool(back) and min(back) < BACK_SECONDS, f"answers {min(back, default=-1):.1f} s after the kill"),
    ]
    print(f"server stopped: statuses {dict(stopped.good)}, ended after {seconds:.1f} s")
    accepted = [status for began, _, status in stopped.events if began < stop_at]
    answered = sum(status in (200, 503) for status in accepted)
    last = Counter(status for began, end, status in stopped.events if began < stop_at <= end)
    results += [
        _criterion(answered == len(accepted), f"{answered} of {len(accepted)} requests before it answered"),
        _criterion(set(last) <= {200, 503}, f"statuses of those under way: {dict(last)}"),
        _criterion(status == 0, f"exit status {status}"),
    ]
    return all(results)


async def _interrupted(server: Server, files: list[bytes], options: argparse.Namespace, act: Any) -> tuple[Load, float]:
    """Load in whose first third something happens; returns the load and when it happened."""
    clients = load(
        server.port, files, options.clients, options.seconds, keep_events=True, stop=lambda: act is _terminate
    )
    task = asyncio.create_task(clients)
    await asyncio.sleep(options.seconds / 3)
    await asyncio.to_thread(act, server)
    at = time.perf_counter()
    return await task, at


def _kill_network(server: Server) -> None:
    """Kill the process that computes most now; others may have computed more while they were started."""
    processes = server.processes[1:]
    before = [_of(one, lambda this: this.cpu_times().user) for one in processes]
    time.sleep(1)
    after = [_of(one, lambda this: this.cpu_times().user) for one in processes]
    busiest = max(range(len(processes)), key=lambda index: after[index] - before[index])
    processes[busiest].send_signal(signal.SIGKILL)


def _terminate(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)


def _criterion(passed: bool, line: str) -> bool:
    print(f"{'ok  ' if passed else 'FAIL'}  {line}", flush=True)
    return passed


def _list(names: Any) -> str:
    return f", but not {dict(names)}" if names else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = {"load": measure_load, "soak": soak, "faults": faults}
    parser.add_argument("mode", choices=list(modes))
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7, help="of load")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each round of load, or of each fault")
    parser.add_argument("--minutes", type=float, default=10.0, help="of soak")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="options of the server")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = pictures(64)
        for number, content in enumerate(files):
            (folder / f"{number:03}.jpg").write_bytes(content)
        checkpoint = options.checkpoint or folder / "tiny.safetensors"
        if options.mode != "load" and not checkpoint.exists():
            with predictor(checkpoint, folder) as writer:
                answer_of(writer)
        size = sum(map(len, files)) / len(files) / 1000
        about = json.loads(subprocess.check_output([sys.executable, "-c", MACHINE]))
        print("; ".join(f"{name} {value}" for name, value in about.items()))
        print(f"{len(files)} JPEG files of {size:.0f} kB")
        sys.exit(0 if modes[options.mode](options, checkpoint, files, folder) else 1)


if __name__ == "__main__":
    main()
