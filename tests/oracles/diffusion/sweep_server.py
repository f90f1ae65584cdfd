"""A running server as one that answers requests of `sweep.py`, by the API that clients use."""

import io
import json
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

# A job's parameters by diffusers' names.
SAME = [
    "prompt", "negative_prompt", "prompt_2", "num_inference_steps", "guidance_scale", "guidance_rescale", "eta", "seed", "strength",
    "clip_skip", "scheduler", "schedule_type",
]  # fmt: skip
PATIENCE_S = 600


class Server:
    """`url` of a server whose folders of models and LoRAs are these."""

    def __init__(self, url: str, models: Path, loras: Path):
        self.url, self.models, self.loras = url.rstrip("/"), models, loras
        self.mode = None

    def ask(self, model, asked: dict, out: Path) -> tuple[np.ndarray | None, str]:
        """The picture, or none and why."""
        mode = self.shown(model)
        params = {key: asked[key] for key in SAME if key in asked}
        params |= {"mode": mode, "size": f"{asked['width']}x{asked['height']}", "strict": True}
        for key in ["image", "mask"]:
            if key in asked:
                params[key] = self.upload(Path(asked[key]).read_bytes())
        if "lora" in asked:
            shutil.copy(asked["lora"][0], self.loras / f"{mode}.safetensors")
            params["loras"] = [{"name": mode, "strength": asked["lora"][1]}]
        try:
            job = self.post("/v1/jobs", json.dumps({"jobType": "generate", "params": params}).encode(), "application/json")
        except urllib.error.HTTPError as error:
            return None, json.loads(error.read())["error"]
        deadline = time.monotonic() + PATIENCE_S
        while job["status"] not in ("done", "failed", "error", "canceled"):
            assert time.monotonic() < deadline, f"the job {job['jobId']} does not end"
            time.sleep(0.01)
            job = json.loads(self.get(f"/v1/jobs/{job['jobId']}"))
        if job["status"] != "done":
            return None, job["error"]
        picture = Image.open(io.BytesIO(self.get(job["outputs"][0]["url"]))).convert("RGB")
        return np.asarray(picture), "; ".join(job["meta"].get("warnings", []))

    def shown(self, model) -> str:
        """The mode of a model, which is put where the server looks for models."""
        name = f"sweep{abs(hash(model.path))}"
        if self.mode == name:
            return name
        for old in self.models.glob("sweep*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        self.mode = name
        if model.path.is_dir():
            shutil.copytree(model.path, self.models / name)
        else:
            shutil.copy(model.path, self.models / f"{name}.safetensors")
        self.post("/api/modes/reload", b"", "application/json")
        return name

    def upload(self, content: bytes) -> str:
        head = b'--sweep\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        form = head + content + b"\r\n--sweep--\r\n"
        return self.post("/v1/upload", form, "multipart/form-data; boundary=sweep")["fileRef"]

    def get(self, path: str) -> bytes:
        return urllib.request.urlopen(self.url + path, timeout=PATIENCE_S).read()

    def post(self, path: str, body: bytes, kind: str) -> dict:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": kind})
        return json.loads(urllib.request.urlopen(request, timeout=PATIENCE_S).read() or b"null")
