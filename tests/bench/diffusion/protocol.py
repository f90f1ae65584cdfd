"""What the contenders of `sd15.py` are asked and answer: the same as `host/models/benches/sd15 --serve`.

A contender says first, as a line of JSON, what it is and what loading took. Then each line on its input, `SIDE [FILE]`, is
a picture to make, answered with a line of JSON; the picture's values go to the file, as float32 in (channel, row, column).
"""

import json
import pathlib
import sys

# Of the noise that the picture is made of.
SEED = 7


def reset_peak():
    """Has the kernel take the highest memory use from now on."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def memory_mb(key):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) // 1024
    return 0


def serve(name, load_s, make, out=sys.stdout, **about):
    """Answers each line with what `make(side)` returns, a picture and its costs."""
    about |= {"name": name, "load_s": load_s, "load_peak_mb": memory_mb("VmHWM"), "loaded_mb": memory_mb("VmRSS")}
    print(json.dumps(about), flush=True, file=out)
    for line in sys.stdin:
        size, *file = line.split()
        picture, answer = make(int(size))
        if file:
            picture.tofile(file[0])
        print(json.dumps(answer), flush=True, file=out)
