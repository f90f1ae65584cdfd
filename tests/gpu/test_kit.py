"""Whatever a stage does, it is recorded and the run goes on.

python3 -m unittest test_kit            in this folder
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import threading
import time
import unittest
from unittest import mock

sys.dont_write_bytecode = True

from kit import results
from kit.schedule import Schedule, Stage


def python(name, text, expected=0.0, limit=20.0, **about):
    return Stage(name, [sys.executable, "-c", text], expected, limit, **about)


class Run(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        # Its table is not the test's output.
        quiet = mock.patch("builtins.print")
        quiet.start()
        self.addCleanup(quiet.stop)

    def schedule(self, seconds=60.0, ping=None):
        return Schedule("A", self.folder / "logs", self.folder / "status.jsonl", seconds, ping=ping)

    def status(self):
        lines = (self.folder / "status.jsonl").read_text().splitlines()
        return {line["name"]: line for line in map(json.loads, lines)}

    def test_who_ends_the_run_gets_the_device_back(self):
        started = self.folder / "started"
        text = f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

        def end(*_):
            raise KeyboardInterrupt

        def ends_once_it_runs():
            while not started.exists() or not started.read_text():
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, end)
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        threading.Thread(target=ends_once_it_runs, daemon=True).start()
        with self.assertRaises(KeyboardInterrupt):
            self.schedule().run(python("long", text))
        self.assertEqual(self.status()["long"]["outcome"], "cut short")
        with self.assertRaises(ProcessLookupError):
            os.kill(int(started.read_text()), 0)

    def test_torn_lines_of_earlier_results_are_left_out(self):
        whole = {"half": "A", "name": "one", "outcome": "passed"}
        status = self.folder / "status.jsonl"
        status.write_text(json.dumps(whole) + '\n\n{"half": "A", "na\n[]\n{"half": "A"}\n')
        self.assertEqual(results.lines(status), [whole])
        self.assertEqual(results.statuses(status), [whole])

    def test_each_outcome_is_recorded_and_the_run_goes_on(self):
        schedule = self.schedule()
        hang = "import time; print('began', flush=True); time.sleep(60)"
        lines = [
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored",
        ]
        test = f"print({chr(10).join(lines)!r}); exit(101)"
        for stage in [
            python("fails", "print('why'); exit(3)"),
            python("crashes", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"),
            python("hangs", hang, limit=1.0),
            python("tests", test),
            python("nothing", "print('skipped: no such thing'); exit(77)"),
            python("skips", "print('skipped: no GPU\\ntest result: ok. 1 passed; 0 failed; 0 ignored')"),
            python("tells of what it skips", "print('skipped: a part\\nthe rest is done')"),
            python("left out", "", missing="no tool"),
            Stage("not there", [self.folder / "no-such-program"], 0, 1),
            python("passes", "print('test result: ok. 2 passed; 0 failed; 0 ignored')"),
        ]:
            schedule.run(stage)
        told = {
            name: (line["outcome"], line["rc"], line.get("detail")) for name, line in self.status().items()
        }
        missing = told.pop("not there")
        self.assertEqual(missing[:2], ("failed", None))
        self.assertEqual(
            told,
            {
                "fails": ("failed", 3, "why"),
                "crashes": ("crashed", -11, "SIGSEGV"),
                "hangs": ("hung", -9, "1 s"),
                "tests": ("failed", 101, "1 passed, 1 failed"),
                "nothing": ("skipped", 77, "no such thing"),
                "skips": ("skipped", 0, "no GPU"),
                "tells of what it skips": ("passed", 0, "the rest is done"),
                "left out": ("skipped", None, "no tool"),
                "passes": ("passed", 0, "2 passed, 0 failed"),
            },
        )
        self.assertEqual(self.status()["tests"]["failed"], ["a::c"])
        self.assertIn("began", (self.folder / "logs" / "A-hangs.log").read_text())

    def test_a_hang_is_looked_at_before_it_is_killed(self):
        debugger = self.folder / "cuda-gdb"
        debugger.write_text('#!/bin/sh\nkill -0 "$2" && echo "$2 is alive"\n')
        debugger.chmod(0o755)
        with mock.patch.dict(os.environ, {"PATH": f"{self.folder}:{os.environ['PATH']}"}):
            self.schedule().run(
                python("hangs", "import os, time; print(os.getpid(), flush=True); time.sleep(60)", limit=1.0)
            )
        log = (self.folder / "logs" / "A-hangs.log").read_text()
        pid = log.split()[0]
        self.assertIn(f"{pid} is alive", log)
        self.assertFalse(pathlib.Path(f"/proc/{pid}").exists())

    def test_the_children_of_a_stage_go_with_it(self):
        child = "subprocess.Popen(['sleep', '60'])"
        text = f"import subprocess, time; print({child}.pid, flush=True); time.sleep(60)"
        self.schedule().run(python("hangs", text, limit=1.0))
        pid = (self.folder / "logs" / "A-hangs.log").read_text().split()[0]
        stat = pathlib.Path(f"/proc/{pid}/stat")
        for _ in range(100):
            # Whoever adopts it may not have buried it yet.
            if not stat.exists() or stat.read_text().rsplit(")")[-1].split()[0] == "Z":
                return
            time.sleep(0.05)
        self.fail(f"{pid} lives")

    def test_what_does_not_fit_is_skipped_and_what_is_too_long_is_cut_short(self):
        schedule = self.schedule(seconds=2.0)
        start = time.monotonic()
        schedule.run(python("does not fit", "", expected=30.0, limit=40.0))
        schedule.run(python("too long", "import time; time.sleep(60)", expected=0.5, limit=40.0))
        schedule.run(python("too late", "", expected=1.0))
        self.assertLess(time.monotonic() - start, 10)
        told = {name: (line["outcome"], line.get("detail")) for name, line in self.status().items()}
        expected = {
            "does not fit": ("skipped", "no time"),
            "too long": ("cut short", "no time"),
            "too late": ("skipped", "no time"),
        }
        self.assertEqual(told, expected)

    def test_stages_side_by_side(self):
        wait = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)"
        gate = str(self.folder / "gate")
        waits = Stage("waits", [sys.executable, "-c", wait, gate], 0, 20)
        opens = Stage("opens", [sys.executable, "-c", "import sys; open(sys.argv[1], 'w')", gate], 0, 20)
        self.schedule().run(waits, opens, width=2)
        self.assertEqual({line["outcome"] for line in self.status().values()}, {"passed"})

    def test_while_the_device_does_not_answer_stages_are_skipped(self):
        there = self.folder / "device"
        ping = python("ping", f"import pathlib, sys; sys.exit(not pathlib.Path({str(there)!r}).exists())")
        schedule = self.schedule(ping=ping)
        there.touch()
        schedule.run(python("first", ""))
        schedule.run(python("loses it", f"import os; os.remove({str(there)!r})"))
        schedule.run(python("second", ""))
        there.touch()
        schedule.run(python("third", ""))
        told = {name: (line["outcome"], line.get("detail")) for name, line in self.status().items()}
        self.assertEqual(told["first"][0], "passed")
        self.assertEqual(told["ping after loses it"][0], "failed")
        self.assertEqual(told["second"], ("skipped", "the device does not answer"))
        self.assertEqual(told["third"][0], "passed")


class Results(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.tables = self.folder / "tables"
        self.tables.mkdir()

    def table(self, name, *rows):
        (self.tables / f"{name}.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))

    def test_what_ran_is_shown(self):
        lines = [
            {
                "half": "A",
                "name": "suite",
                "outcome": "failed",
                "rc": 101,
                "seconds": 3.0,
                "failed": ["attention::causal"],
            },
            {
                "half": "A",
                "name": "peers",
                "outcome": "skipped",
                "rc": None,
                "seconds": 0,
                "detail": "no time",
            },
        ]
        (self.folder / "status.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        columns = ("operation", "case", "path", "ms", "rate", "unit", "share")
        self.table("speeds", columns, ("linear", "1 2->3", "", "2.0", "10", "TFLOP/s", "0.25"))
        self.table("peers", ("name", "ms", "variant"), ("linear 1 2->3", "3.0", "linear"))
        text = results.write(self.folder, self.tables)
        for part in [
            "| A | suite | failed |",
            "suite: attention::causal",
            "| no time |",
            "| 25 % | 3.0 | linear | 1.50 |",
        ]:
            self.assertIn(part, text)
        self.assertEqual((self.folder / "results.md").read_text(), text)

    def test_a_table_that_was_cut_off_is_read(self):
        columns = ("operation", "case", "path", "ms", "rate", "unit", "share")
        self.table(
            "speeds", columns, ("linear", "1 2->3", "", "2.0", "10", "TFLOP/s", "0.25"), ("linear", "2 3->")
        )
        self.assertIn("1 2->3", results.write(self.folder, self.tables))

    def test_files_that_are_too_large_are_left_out_by_name(self):
        small, large = self.tables / "small", self.tables / "large"
        small.write_bytes(os.urandom(1000))
        large.write_bytes(os.urandom(300_000))
        with mock.patch.object(results, "MOST_BYTES", 200_000):
            self.assertEqual(results.pack(self.folder / "packed.tar.xz", self.tables), ["large"])
        with tarfile.open(self.folder / "packed.tar.xz") as packed:
            self.assertEqual(packed.getnames(), ["small"])
        with mock.patch.object(results, "MOST_RAW_BYTES", 200_000):
            self.assertEqual(results.pack(self.folder / "packed.tar.xz", self.tables), ["large"])


class Whole(unittest.TestCase):
    """`run.sh` with a kit of shell scripts, some of which fail."""

    PROGRAM = """#!/bin/sh
    case "$0 $1" in
        *" check") echo "it differs"; exit 1 ;;
        *" probe") kill -SEGV $$ ;;
        *" speeds") printf "operation\\tcase\\tpath\\tms\\trate\\tunit\\tshare\\n" > "$3" ;;
        *"/cuda device"*) echo "test result: ok. 1 passed; 0 failed; 0 ignored" ;;
    esac
    """

    def test_both_halves_leave_their_results(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            here = pathlib.Path(__file__).resolve().parent
            for file in ("run.sh", "run.py"):
                shutil.copy(here / file, folder)
            shutil.copytree(here / "kit", folder / "kit")
            shutil.copytree(here / "peers", folder / "packed" / "peers")
            (folder / "packed" / "commit").write_text("a commit")
            for program in ("reverie-gpu-kit", "gpu", "cuda", "cuda_alone", "pipelines", "sd15"):
                path = folder / "packed" / "bin" / program
                path.parent.mkdir(exist_ok=True)
                path.write_text(textwrap.dedent(self.PROGRAM))
                path.chmod(0o755)
            with tarfile.open(folder / "kit.tar.xz", "w:xz", preset=0) as packed:
                packed.add(folder / "packed", ".")
            # What stands for the driver is none: the programs are not programs either.
            (folder / "driver").touch()
            env = {**os.environ, "OUT": str(folder / "out"), "REVERIE_EMULATED": str(folder / "driver")}
            done = subprocess.run(
                [folder / "run.sh", "--seconds", "80"], env=env, capture_output=True, text=True, check=False
            )
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            names = sorted(path.name for path in (folder / "out").iterdir())
            expected = ["logs-A.tar.xz", "logs-B.tar.xz", "results.md", "status.jsonl", "tables.tar.xz"]
            self.assertEqual(names, expected)
            outcomes = {
                line["name"]: line["outcome"] for line in results.statuses(folder / "out" / "status.jsonl")
            }
            told = {name: outcomes[name] for name in ("check-small", "wgmma-64", "device", "peers", "alone")}
            self.assertEqual(
                told,
                {
                    "check-small": "failed",
                    "wgmma-64": "crashed",
                    "device": "passed",
                    "peers": "skipped",
                    "alone": "passed",
                },
            )
            # The other half does again what failed, and that alone.
            self.assertEqual(outcomes["again-check-small"], "failed")
            self.assertEqual(outcomes["again-wgmma-64"], "crashed")
            self.assertNotIn("again-device", outcomes)


if __name__ == "__main__":
    unittest.main()
