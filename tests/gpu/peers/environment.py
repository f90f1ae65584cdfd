"""Where and with what a run is made, as Markdown: `python3 environment.py KIT TABLES` writes
TABLES/environment.md."""

import ctypes
import os
import pathlib
import platform
import shutil
import subprocess
import sys

root, tables = map(pathlib.Path, sys.argv[1:])


def told(*command, env=None):
    try:
        env = {**os.environ, **(env or {})}
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=env, check=False)
        return done.stdout.strip() if done.returncode == 0 else f"{done.stdout}{done.stderr}".strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def lines():
    fields = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.memory"
    if shutil.which("nvidia-smi"):
        yield f"- nvidia-smi: {told('nvidia-smi', f'--query-gpu={fields}', '--format=csv,noheader')}"
    ours = {"LD_PRELOAD": os.environ["REVERIE_EMULATED"]} if os.environ.get("REVERIE_EMULATED") else {}
    yield told(root / "bin" / "reverie-gpu-kit", "environment", env=ours)
    yield f"- Reverie at {(root / 'commit').read_text().strip()}"
    try:
        import diffusers
        import torch

        cuda = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        yield f"- PyTorch {torch.__version__}, {cuda}, diffusers {diffusers.__version__}"
    except Exception as error:  # Whatever is wrong with them, the rest goes on.
        yield f"- no PyTorch and diffusers: {type(error).__name__}: {error}"
    libc = ctypes.CDLL(None)
    libc.gnu_get_libc_version.restype = ctypes.c_char_p
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    processor = f"{len(names)} processors of {names[0] if names else platform.machine()}"
    glibc = libc.gnu_get_libc_version().decode()
    yield f"- {processor}, {platform.system()} {platform.release()}, glibc {glibc}"
    found = [tool for tool in ("nvcc", "ncu", "compute-sanitizer", "cuda-gdb") if shutil.which(tool)]
    yield f"- Python {platform.python_version()}; tools: {', '.join(found) or 'none'}"


text = "\n".join(lines()) + "\n"
(tables / "environment.md").write_text(text)
print(text)
