"""Runs the packed kit: half A, half B, or both. `run.sh` starts it; README.md says what comes of it."""

import argparse
import json
import lzma
import os
import pathlib
import shutil
import signal
import sys
import tarfile
import tempfile
import traceback

sys.dont_write_bytecode = True

from kit import results
from kit.schedule import Schedule
from kit.stages import Kit, half_a, half_b

HERE = pathlib.Path(__file__).resolve().parent
SECONDS = 390
LEAST_SECONDS = 60
# Of those, for packing what was found.
PACKING_S = 20
# Where the CUDA toolkit is, if nobody put it into PATH.
TOOLS = ["/usr/local/cuda/bin", "/opt/cuda/bin"]
# A dump of a core has the device's memory in it, but for this.
DUMP = {
    "CUDA_ENABLE_COREDUMP_ON_EXCEPTION": "1",
    "CUDA_COREDUMP_GENERATION_FLAGS": "skip_global_memory,skip_abort",
    "CUDA_COREDUMP_SHOW_PROGRESS": "1",
    "RUST_BACKTRACE": "1",
    # As nvidia-smi numbers them.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}


def archive():
    """Beside this file where that was packed, else where pack.sh leaves it."""
    for folder in (HERE, HERE.parents[1] / "target" / "gpu-kit"):
        if (folder / "kit.tar.xz").exists():
            return folder / "kit.tar.xz"
    sys.exit("there is no kit.tar.xz: tests/gpu/pack.sh makes it")


def forget(half, status):
    """Takes the lines of an earlier run of this half off `status.jsonl`."""
    if status.exists():
        kept = [line for line in results.lines(status) if line["half"] != half]
        status.write_text("".join(json.dumps(line) + "\n" for line in kept))


def run(half, kit, out, work, earlier, seconds, only):
    dumps, logs = work / f"dumps-{half}", work / f"logs-{half}"
    dumps.mkdir()
    kit.dumps = dumps
    # Ours go there too: inputs and results of what differs.
    env = {**DUMP, "CUDA_COREDUMP_FILE": str(dumps / "core_%p"), "REVERIE_DUMP": str(dumps)}
    forget(half, out / "status.jsonl")
    ping = kit.asked("ping", "ping", expected=1, limit=15)
    schedule = Schedule(half, logs, out / "status.jsonl", seconds - PACKING_S, env=env, ping=ping, only=only)
    try:
        if half == "A":
            half_a(kit, schedule)
        else:
            half_b(kit, schedule, earlier)
    except BaseException as error:
        # What is known is kept, and the other half may still run, unless somebody has ended it all.
        ended = None if isinstance(error, Exception) else error
        schedule.record("the run itself", "failed", None, 0, traceback.format_exc())
    else:
        ended = None
    results.write(out, kit.tables, emulated=bool(kit.emulated))
    for name, folder in (("tables", kit.tables), (f"logs-{half}", logs), (f"dumps-{half}", dumps)):
        if left_out := results.pack(out / f"{name}.tar.xz", folder):
            print(f"{name}: too large: {', '.join(left_out)}")
    if ended:
        raise ended


def unpack(path, to):
    with tarfile.open(path) as packed:
        # Python has filters since 3.9.17, 3.10.12 and 3.11.4. Without one: the archives are our own.
        packed.extractall(to, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("half", nargs="?", choices=["A", "B"], help="default: one after the other")
    parser.add_argument(
        "--earlier", type=pathlib.Path, help="status.jsonl of half A, where that is not among the results"
    )
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages of the half, and no others")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for a half")
    args = parser.parse_args()
    if args.seconds < LEAST_SECONDS:
        parser.error(f"--seconds: at least {LEAST_SECONDS}, or nothing has time and earlier results are lost")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    out = pathlib.Path(os.environ.get("OUT") or "results").resolve()
    out.mkdir(parents=True, exist_ok=True)
    emulated = os.environ.get("REVERIE_EMULATED")
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), *filter(os.path.isdir, TOOLS)])
    halves = [args.half] if args.half else ["A", "B"]
    work = pathlib.Path(tempfile.mkdtemp(prefix="reverie-gpu-kit-"))
    try:
        root, tables = work / "kit", work / "tables"
        unpack(archive(), root)
        tables.mkdir()
        if halves == ["B"] and (out / "tables.tar.xz").exists():
            try:
                unpack(out / "tables.tar.xz", tables)
            except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
                print(f"{out / 'tables.tar.xz'}: half A's tables are left out: {error}")
        kit = Kit(root, work, tables, None, pathlib.Path(emulated).resolve() if emulated else None)
        for half in halves:
            earlier = results.statuses(args.earlier or out / "status.jsonl")
            run(half, kit, out, work, earlier, args.seconds, args.only)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print("\n" + (out / "results.md").read_text())
    lines = results.lines(out / "status.jsonl")
    if not any(line["outcome"] == "passed" for line in lines if line["half"] in halves):
        sys.exit("nothing could be examined: results.md says why")


main()
