"""Runs stages one after another in processes of their own, each under a time limit, all of them under one.

Whatever a stage does, the run goes on: it may fail, die by a signal, or hang, and then it is looked at with
cuda-gdb and killed. After each the device is asked for a sign of life; while it gives none, stages are
skipped. What came of a stage is a line of `status.jsonl`: `name`, `outcome`, `rc`, `seconds`, and a `detail`
where there is one.
"""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import time

# What a stage exits with that has nothing to do here; its last line says why.
SKIPPED = 77
POLL_S = 0.05
DEBUGGER_S = 20


@dataclasses.dataclass
class Stage:
    """A command, how many seconds it should take, and from how many on it hangs."""

    name: str
    command: list
    expected: float
    limit: float
    env: dict = dataclasses.field(default_factory=dict)
    # Why it is not run here.
    missing: str = ""
    # Whether a debugger can say something of its process: not where that is a script, or under a tool.
    debug: bool = True


class Running:
    def __init__(self, stage, log, env, room):
        self.stage, self.log = stage, log
        self.start = time.monotonic()
        self.limit = min(stage.limit, room)
        # A group of its own, so that a kill reaches its children.
        with open(log, "wb") as out:
            self.process = subprocess.Popen(
                [str(word) for word in stage.command],
                env={**os.environ, **env, **stage.env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def seconds(self):
        return time.monotonic() - self.start

    def kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            # It is in the kernel's hands, as after a fault of the driver.
            return -signal.SIGKILL


class Schedule:
    """`seconds` are for all stages together; `ping` is a stage that ends well while the device works; `only` names
    the stages to run, if not all."""

    def __init__(self, half, folder, status, seconds, env=None, ping=None, only=None):
        self.half, self.folder, self.status = half, folder, status
        self.deadline = time.monotonic() + seconds
        self.env, self.ping, self.only = env or {}, ping, only
        self.done = []
        self.answers = True
        folder.mkdir(parents=True, exist_ok=True)

    def room(self):
        return self.deadline - time.monotonic()

    def run(self, *stages, width=1):
        """Runs stages, so many of them at a time, and then asks for a sign of life."""
        waiting = [stage for stage in stages if not self.only or stage.name in self.only]
        running, began = [], False
        if not waiting:
            return
        if not self.answers:
            self.answers = self.ask("before " + stages[0].name)
        try:
            while waiting or running:
                while waiting and len(running) < width:
                    if started := self.begin(waiting.pop(0)):
                        running.append(started)
                        began = True
                for one in [one for one in running if self.over(one)]:
                    running.remove(one)
                time.sleep(POLL_S)
        except BaseException:
            # Whoever ends the run wants the device back.
            for one in running:
                rc = one.kill()
                self.record(one.stage.name, "cut short", rc, one.seconds(), "the run was ended", one.log)
            raise
        if began:
            self.answers = self.ask("after " + stages[-1].name)

    def begin(self, stage):
        reason = stage.missing
        if not reason and not self.answers:
            reason = "the device does not answer"
        if not reason and self.room() < stage.expected:
            reason = "no time"
        if reason:
            self.record(stage.name, "skipped", None, 0, reason)
            return None
        log = self.folder / f"{self.half}-{stage.name}.log"
        try:
            return Running(stage, log, self.env, self.room())
        except OSError as error:
            self.record(stage.name, "failed", None, 0, str(error))
            return None

    def over(self, one):
        """Whether it has ended, or was ended."""
        rc = one.process.poll()
        if rc is None and one.seconds() < one.limit:
            return False
        seconds = one.seconds()
        if rc is None:
            hangs = one.limit >= one.stage.limit
            if hangs and one.stage.debug:
                self.examine(one)
            rc = one.kill()
            outcome, detail = ("hung", f"{one.limit:.0f} s") if hangs else ("cut short", "no time")
            self.record(one.stage.name, outcome, rc, seconds, detail, one.log)
            return True
        # What it may have left behind.
        one.kill()
        if rc < 0:
            self.record(one.stage.name, "crashed", rc, seconds, signal_name(-rc), one.log)
        else:
            outcome, detail = told(rc, one.log)
            self.record(one.stage.name, outcome, rc, seconds, detail, one.log)
        return True

    def examine(self, one):
        """What a process that hangs is at, into its log."""
        debugger = shutil.which("cuda-gdb")
        if not debugger:
            return
        commands = ["info cuda kernels", "info cuda warps", "info threads", "thread apply all bt 12"]
        line = [debugger, "-p", str(one.process.pid), "-batch", "-nx"]
        line += [word for command in commands for word in ("-ex", command)]
        with open(one.log, "ab") as out:
            out.write(b"\n== it hangs: cuda-gdb\n")
            out.flush()
            try:
                limit = max(1, min(DEBUGGER_S, self.room()))
                subprocess.run(
                    line, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, timeout=limit
                )
            except (subprocess.TimeoutExpired, OSError) as error:
                out.write(f"{error}\n".encode())

    def ask(self, when):
        """Whether the device answers."""
        if not self.ping:
            return True
        start = time.monotonic()
        try:
            env = {**os.environ, **self.env, **self.ping.env}
            command, limit = self.ping.command, max(1, min(self.ping.limit, self.room()))
            asked = subprocess.run(
                command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit
            )
            rc, text = asked.returncode, (asked.stdout + asked.stderr).decode(errors="replace").strip()
        except (subprocess.TimeoutExpired, OSError) as error:
            rc, text = -signal.SIGKILL, str(error)
        if rc:
            self.record(f"ping {when}", "failed", rc, time.monotonic() - start, text[-500:])
        return not rc

    def record(self, name, outcome, rc, seconds, detail="", log=None):
        line = {"half": self.half, "name": name, "outcome": outcome, "rc": rc, "seconds": round(seconds, 1)}
        if detail:
            line["detail"] = detail
        if log and (failed := failures(log)):
            line["failed"] = failed
        self.done.append(line)
        with open(self.status, "a") as out:
            out.write(json.dumps(line) + "\n")
        print(f"{self.half} {name:32} {outcome:10} {seconds:6.1f} s  {detail}", flush=True)


def signal_name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def told(rc, log):
    """Outcome and detail by what a process said before it ended."""
    text = log.read_text(errors="replace")
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "").strip()
    results = re.findall(r"test result: \S+ (\d+) passed; (\d+) failed", text)
    passed, failed = (sum(int(result[i]) for result in results) for i in (0, 1))
    skipped = re.findall(r"^skipped: .*", text, re.MULTILINE)
    if rc == SKIPPED or (rc == 0 and results and skipped and len(skipped) >= passed):
        reason = skipped[-1] if skipped else last
        return "skipped", reason.removeprefix("skipped: ")[:300]
    detail = f"{passed} passed, {failed} failed" if results else last[:300]
    return ("failed" if rc else "passed"), detail


def failures(log):
    """Names of tests that failed."""
    return re.findall(r"^test (\S+) \.\.\. FAILED", log.read_text(errors="replace"), re.MULTILINE)
