"""What the training scripts share: checkpoints, averages of weights, a clock."""

import os
import time
from pathlib import Path

# Spinning threads starve each other where the machine has other work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.distributed as dist

torch.set_num_threads(int(os.environ.get("THREADS", "2")))


def autocast():
    """bf16 where the processor multiplies it itself; elsewhere it would be ten times slower than f32."""
    native = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
    return torch.autocast("cpu", torch.bfloat16, enabled=native)


class Training:
    """A loop's state on disk, so that it can be stopped at any time and goes on where it was.

    `minutes` counts the time spent on it in all runs together; the learning rate falls to nothing at its end.
    """

    def __init__(self, path, minutes, models, optimizer, rate, warmup=100, decay=0.35):
        self.path, self.minutes, self.models, self.optimizer = Path(path), float(minutes), models, optimizer
        self.rate, self.warmup, self.decay = rate, warmup, decay
        self.step, self.spent, self.saved, self.shown, self.losses = 0, 0.0, time.time(), time.time(), []
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            for name, model in models.items():
                model.load_state_dict(state["models"][name])
            if state["optimizer"]:
                optimizer.load_state_dict(state["optimizer"])
            self.step, self.spent = state["step"], state["spent"]
            print("goes on at step", self.step, f"after {self.spent:.1f} minutes")
        self.last = time.time()

    def going(self):
        """Whether there is time for another step, whose learning rate this sets."""
        now = time.time()
        # A pause of the process does not count.
        self.spent += min(now - self.last, 20) / 60
        self.last = now
        if self.spent >= self.minutes:
            self.save()
            return False
        left = 1 - self.spent / self.minutes
        factor = min(1.0, (self.step + 1) / self.warmup, max(left / self.decay, 0.01))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor * group.get("factor", 1.0)
        self.step += 1
        if now - self.saved > 60:
            self.save()
        return True

    def learn(self, loss, **shown):
        """One step of the optimizer."""
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], 1.0)
        self.optimizer.step()
        self.show(loss.detach(), **shown)

    def show(self, loss, every=20, **more):
        self.losses.append(float(loss))
        if time.time() - self.shown > every:
            rest = " ".join(f"{key} {value:.4f}" for key, value in more.items())
            print(f"{self.spent:6.1f} min  step {self.step}  loss {np.mean(self.losses):.4f}  {rest}", flush=True)
            self.shown, self.losses = time.time(), []

    def save(self):
        self.saved = time.time()
        state = {
            "models": {name: model.state_dict() for name, model in self.models.items()},
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "spent": self.spent,
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.path)


class Together:
    """Processes that train one model: WORLD of them by the environment, this one RANK, from 0.

    With a thread each they are faster than threads that wait for each other. Each goes its own way for a few steps; then
    they meet in the middle.
    """

    EVERY = 8

    def __init__(self, path):
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD", "1"))
        if self.world > 1:
            dist.init_process_group("gloo", init_method=f"file://{path}", rank=self.rank, world_size=self.world)

    def steps(self, training, parameters):
        """Goes on for as long as all of them have time."""
        parameters, going, count = list(parameters), torch.ones(1), 0
        while going.item():
            going[0], count = training.going(), count + 1
            if self.world > 1:
                # Only where they meet may one of them end, or the others would wait for it.
                if count % self.EVERY == 0:
                    dist.all_reduce(going, dist.ReduceOp.MIN)
                    self.meet(parameters)
                else:
                    going[0] = 1
            yield

    @torch.no_grad()
    def meet(self, parameters):
        flat = torch.cat([parameter.reshape(-1) for parameter in parameters])
        dist.all_reduce(flat)
        parts = (flat / self.world).split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts):
            parameter.copy_(part.view(parameter.shape))


class Average(torch.nn.Module):
    """The exponential moving average of a model's weights, which is younger at the beginning."""

    def __init__(self, model, most=0.999):
        super().__init__()
        import copy

        self.model, self.most, self.count = copy.deepcopy(model).requires_grad_(False).eval(), most, 0

    @torch.no_grad()
    def update(self, model):
        self.count += 1
        keep = min(self.most, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - keep)

    def get_extra_state(self):
        return torch.tensor(self.count)

    def set_extra_state(self, state):
        self.count = int(state)
