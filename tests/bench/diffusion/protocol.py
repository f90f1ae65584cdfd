"""What the contenders of `sd15.py` are asked and answer: the same as `host/models/benches/sd15 --serve`.

A contender says first, as a line of JSON, what it is and what loading took, or why it ends at once (`skipped`). Then each line
on its input, `SIDE BATCH [FILE]`, is a batch of pictures to make, answered with a line of JSON; the pictures' values go to the
file, as float32 in (picture, channel, row, column).

`steps_s` are the times from one step's call to the next; the last step's ends when the device is done with all of them. On
a GPU only their sum means something.
"""

import json
import pathlib
import sys

# Of the noise that the pictures are made of.
SEED = 7


def reset_peak():
    """Has the kernel take the highest memory use from now on."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def memory_mb(key):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) // 1024
    return 0


def skip(reason):
    """Says why there is nothing to ask."""
    print(json.dumps({"skipped": reason}), flush=True)


def serve(name, load_s, make, out=sys.stdout, **about):
    """Answers each line with what `make(side, batch)` returns, pictures and their costs."""
    about |= {"name": name, "load_s": load_s, "load_peak_mb": memory_mb("VmHWM"), "loaded_mb": memory_mb("VmRSS")}
    print(json.dumps(about), flush=True, file=out)
    for line in sys.stdin:
        size, batch, *file = line.split()
        pictures, answer = make(int(size), int(batch))
        if file:
            pictures.tofile(file[0])
        print(json.dumps(answer), flush=True, file=out)
