"""The conversation engine beside bare HTTP clients, on a fake server in a process of its own.

    python benchmarks/bench_engine.py            all workloads; `make bench-engine`
    python benchmarks/bench_engine.py w1 w2      some of them
    python benchmarks/bench_engine.py transports clients only; those whose packages are installed
    python benchmarks/bench_engine.py parts      the engine without each of its parts: docs/design/engine-costs.md

The engine is `meteor refine --no-train` on a real run directory: templates, limits, parsing, store, progress, log. CPU is
that of the client's process, user and system, threads included; `all` from its first instruction to its last, `work`
without starting Python and importing. Memory is the peak of resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Workload:
    """Questions asked of student then judge, with `in_flight` at once and a reply after `delay_s`."""

    name: str
    questions: int
    in_flight: int
    delay_s: float
    clients: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """For the clients."""
    engine: bool = True

    @property
    def calls(self) -> int:
        return 2 * self.questions

    @property
    def ideal_s(self) -> float:
        return self.calls * self.delay_s / self.in_flight


W1 = Workload("W1", 3000, 512, 0.2, ("aiohttp", "httpx"))
W2 = Workload("W2", 3000, 1024, 2.0, ("aiohttp",))
W3_SMALL = Workload("W3 (10,000)", 10_000, 512, 0.02)
W3 = Workload("W3 (100,000)", 100_000, 512, 0.02)
TRANSPORTS = Workload(
    "transports", 3000, 512, 0.2, ("aiohttp", "httpx-client", "httpx-aiohttp", "pyreqwest"), engine=False
)
UVLOOP = Workload(
    "transports on uvloop", 3000, 512, 0.2, ("aiohttp", "httpx-aiohttp", "pyreqwest"), ("--uvloop",), engine=False
)
R200 = Workload("200 calls/s", 1500, 200, 1.0, ("aiohttp",))
R50 = Workload("50 calls/s", 375, 50, 1.0, ("aiohttp",))
PARTS = ("loop", "waking-few", "gc", "full-sync")
"""What `probed_meteor.py` can take out."""
REPEATS = 3
WORKLOADS = {
    "w1": [W1],
    "w2": [W2],
    "w3": [W3_SMALL, W3],
    "w3-small": [W3_SMALL],
    "transports": [TRANSPORTS, UVLOOP],
}


@dataclass(frozen=True)
class Cost:
    """What one client took for one workload."""

    wall_s: float
    cpu_s: float
    work_cpu_s: float
    peak_mb: float
    more: dict[str, float] = field(default_factory=dict)


def main(names: list[str]) -> None:
    print(
        f"{os.cpu_count()} cores, Python {sys.version.split()[0]}; the server has a process of its own on the same machine"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for name in names or ("w1", "w2", "w3"):
            if name == "parts":
                for workload in (W1, R200, R50):
                    weigh_parts(workload, Path(scratch))
                continue
            for workload in WORKLOADS[name]:
                run_workload(workload, Path(scratch))


def run_workload(workload: Workload, scratch: Path) -> None:
    print(
        f"\n{workload.name}: {workload.questions:,} questions, student then judge, {workload.in_flight} in flight, "
        f"replies after {workload.delay_s * 1000:g} ms; ideal {workload.ideal_s:.1f} s"
    )
    print(
        f"  {'client':18}{'wall':>8}{'ideal/wall':>12}{'CPU/call: work':>16}{'all':>10}{'x aiohttp':>11}{'peak memory':>13}"
    )
    base: float | None = None
    for client in workload.clients:
        if missing := [n for n in NEEDS.get(client, ()) + NEEDS.get("".join(workload.options), ()) if not find_spec(n)]:
            print(f"  {client:18}  not measured: {missing[0]} is not installed")
            continue
        with fake_server(workload) as base_url:
            cost = bare(client, base_url, workload)
        base = base or cost.work_cpu_s
        print_row(client, workload, cost, base)
    if not workload.engine:
        return
    run = scratch / workload.name.split()[0] / str(workload.questions)
    with fake_server(workload) as base_url:
        cost = engine(base_url, workload, run)
    print_row("the whole engine", workload, cost, base)
    lag = cost.more
    print(
        f"  event loop late by: median {lag['lag_p50']:.1f} ms, p99 {lag['lag_p99']:.1f} ms, most {lag['lag_most']:.1f} ms"
    )
    started = time.perf_counter()
    subprocess.run([*METEOR, "status", str(run / "run"), "--json"], check=True, stdout=subprocess.DEVNULL)
    size = (run / "run" / "run.db").stat().st_size / 1e6
    print(f"  meteor status of it: {time.perf_counter() - started:.2f} s; run.db {size:,.0f} MB")


def weigh_parts(workload: Workload, scratch: Path) -> None:
    """The engine as it is and without each of its parts: medians of some runs in turn, beside aiohttp in the same turn."""
    print(f"\n{workload.name}, medians of {REPEATS}: work/call, of which aiohttp alone; event loop late p50, p99, most")
    costs: dict[str, list[tuple[float, ...]]] = {}
    for turn in range(REPEATS):
        for part in ("", *PARTS):
            with fake_server(workload) as base_url:
                base = bare("aiohttp", base_url, workload)
            with fake_server(workload) as base_url:
                folder = scratch / workload.name.replace("/", " ") / f"{part}-{turn}"
                cost = engine(base_url, workload, folder, without=part)
            lag = cost.more
            costs.setdefault(part, []).append(
                (cost.work_cpu_s / workload.calls * 1000, base.work_cpu_s / workload.calls * 1000, lag["lag_p50"],
                 lag["lag_p99"], lag["lag_most"])
            )  # fmt: skip
    for part, rows in costs.items():
        work, alone, p50, p99, most = (sorted(column)[len(rows) // 2] for column in zip(*rows, strict=True))
        name = f"without {part}" if part else "as it is"
        late = f"{p50:>8.1f}{p99:>8.1f}{most:>8.1f} ms"
        print(f"  {name:22}{work:>7.3f} ms{alone:>8.3f} ms{late}", flush=True)


def print_row(client: str, workload: Workload, cost: Cost, base: float | None) -> None:
    work, whole = (seconds / workload.calls * 1000 for seconds in (cost.work_cpu_s, cost.cpu_s))
    ratio = f"{cost.work_cpu_s / base:.2f}" if base else "-"
    share = workload.ideal_s / cost.wall_s
    cpu = f"{work:>13.3f} ms{whole:>7.3f} ms"
    print(f"  {client:18}{cost.wall_s:>6.1f} s{share:>12.0%}{cpu}{ratio:>11}{cost.peak_mb:>10.0f} MB", flush=True)


NEEDS = {"pyreqwest": ("pyreqwest",), "--uvloop": ("uvloop",)}
METEOR = [sys.executable, "-m", "meteor_agents.cli"]


@contextmanager
def fake_server(workload: Workload) -> Iterator[str]:
    command = [sys.executable, str(HERE / "fake_server.py"), "--delay-s", str(workload.delay_s)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
    finally:
        server.terminate()
        server.communicate()


def bare(client: str, base_url: str, workload: Workload) -> Cost:
    numbers = ["--questions", str(workload.questions), "--in-flight", str(workload.in_flight)]
    out, cpu_s, peak_mb = measured(
        [sys.executable, str(HERE / "bare_client.py"), client, base_url, *numbers, *workload.options]
    )
    said = json.loads(out)
    return Cost(said["wall_s"], cpu_s, said["work_cpu_s"], peak_mb)


def engine(base_url: str, workload: Workload, folder: Path, *, without: str = "") -> Cost:
    folder.mkdir(parents=True)
    config = write_project(folder, base_url, workload)
    probe = folder / "probe.json"
    command = [sys.executable, str(HERE / "probed_meteor.py"), str(probe), "refine", str(config), "--no-train"]
    environment = {**os.environ, "METEOR_WITHOUT": without} if without else None
    _, cpu_s, peak_mb = measured([*command, "--run-dir", str(folder / "run")], environment)
    said = json.loads(probe.read_text(encoding="utf-8"))
    return Cost(said["loop_s"], cpu_s, said["end_cpu_s"] - said["start_cpu_s"], peak_mb, said)


def write_project(folder: Path, base_url: str, workload: Workload) -> Path:
    """Questions and settings for the workload; the path of the settings."""
    with (folder / "questions.jsonl").open("w", encoding="utf-8") as out:
        for n in range(workload.questions):
            text = f"What is {n} times seven, and why? " + "Explain each step of the multiplication. " * 10
            out.write(json.dumps({"id": f"q{n:06d}", "question": text}) + "\n")
    role = {
        "backend": "openai",
        "base_url": base_url,
        "sampling": {"max_tokens": 512},
        "limits": {"concurrency": workload.in_flight},
    }
    settings = {
        "name": "bench",
        "domain": "arithmetic",
        "questions": {"path": "questions.jsonl", "holdout": 0, "gate": 0},
        "student": {**role, "model": "student"},
        "teacher": {"backend": "reference"},
        "judge": {**role, "model": "judge"},
    }
    config = folder / "meteor.yaml"
    config.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    return config


def measured(command: list[str], environment: dict[str, str] | None = None) -> tuple[str, float, float]:
    """Standard output, CPU seconds and peak megabytes of a command that must succeed."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
    return said, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("workloads", nargs="*", metavar="w1 w2 w3 w3-small transports parts", help="which; default: all")
    given = parser.parse_args()
    if unknown := set(given.workloads) - {*WORKLOADS, "parts"}:
        parser.error(f"unknown workload {sorted(unknown)[0]!r}; known: {', '.join(WORKLOADS)}, parts")
    main(given.workloads)
