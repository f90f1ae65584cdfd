"""The suite at small shapes under compute-sanitizer, one tool after the other.

    python3 sanitize.py SUITE GATE [--seconds 100]

Makes the file GATE when it is done, whatever came of it. The exit code is 1 where a tool finds an error, or
does not work; that there was no time for all tests is none.
"""

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

# Each with its part of the time. The padding keeps the next block of memory from hiding that a kernel goes
# beyond the one before. Tests ask the driver for more than it has: errors of its functions are no finding.
TOOLS = {
    "memcheck": (0.4, ["--report-api-errors", "no", "--padding", "512"]),
    "racecheck": (0.35, []),
    "synccheck": (0.25, []),
}
# They do without the device.
LEFT_OUT = ["assemble::"]


def kill_with_children(pid):
    """The tool and the program that it watches."""
    parents = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name, which may have anything in it: state, parent.
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            pass
    doomed = [pid]
    for one in doomed:
        doomed += [child for child, parent in parents.items() if parent == one]
    for one in doomed:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            pass


def sanitize(tool, options, suite, log, limit):
    """What came of it, and whether that is bad."""
    skip = [word for test in LEFT_OUT for word in ("--skip", test)]
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *options, suite]
    # One test after the other, so that what is found stands beside its name.
    command += ["--test-threads", "1", *skip]
    print(f"== {tool}", flush=True)
    with open(log, "wb") as out:
        env = {**os.environ, "REVERIE_TEST_DEVICE": "cuda:0"}
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
        try:
            rc = process.wait(limit)
        except subprocess.TimeoutExpired:
            kill_with_children(process.pid)
            process.wait()
            rc = None
    text = log.read_text(errors="replace")
    print(text)
    done = len(re.findall(r"^test \S+ \.\.\. ok", text, re.MULTILINE))
    errors = re.findall(r"ERROR SUMMARY: (\d+)", text)
    # Where it was cut off there is no summary.
    errors = (
        int(errors[-1])
        if errors
        else len(re.findall(r"^=+ (?:Invalid|Error|Barrier error)", text, re.MULTILINE))
    )
    ended = f"cut off after {limit:.0f} s" if rc is None else f"ended with {rc}"
    return f"{tool}: {done} tests, {errors} errors, {ended}", bool(rc or errors)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", type=pathlib.Path)
    parser.add_argument("gate", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=100)
    args = parser.parse_args()
    end, left, told = time.monotonic() + args.seconds, 1.0, []
    try:
        for tool, (part, options) in TOOLS.items():
            limit = (end - time.monotonic()) * part / left
            left -= part
            told.append(sanitize(tool, options, args.suite, args.gate.with_name(f"{tool}.log"), limit))
    finally:
        args.gate.touch()
    print("; ".join(text for text, _ in told))
    sys.exit(any(bad for _, bad in told))


main()
