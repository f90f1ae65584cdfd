"""Records the conversations with a real ComfyUI that tests/fixtures/comfy holds.

    cp tests/oracles/comfy/probe_node.py COMFYUI/custom_nodes/
    python COMFYUI/main.py --cpu --port 8199        # 0.3.64 was recorded
    python tests/oracles/comfy/record.py http://127.0.0.1:8199 tests/fixtures/comfy

Needs aiohttp, which ComfyUI has. Each file is one conversation: what was asked and answered, and the WebSocket's messages, in
their order. Prompt, client and times are replaced by fixed texts. Nothing else of ComfyUI is in them.
"""

import asyncio
import base64
import io
import json
import re
import struct
import sys
import uuid
import zlib
from pathlib import Path

import aiohttp

CLASSES = ["LoadImage", "ImageScale", "ImageInvert", "SaveImage", "PreviewImage", "ReverieProbe"]


def png(width, height):
    """A small gradient, written by hand so that nothing but the standard library is needed."""
    rows = b"".join(
        b"\0" + b"".join(bytes((x * 255 // width, y * 255 // height, 90)) for x in range(width)) for y in range(height)
    )
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def graph(image="example.png", save=("SaveImage",), width=24, steps=3, step_ms=40, seed=1):
    nodes = {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}, "_meta": {"title": "Picture"}},
        "2": {
            "class_type": "ImageScale",
            "inputs": {"image": ["1", 0], "upscale_method": "bilinear", "width": width, "height": 16, "crop": "disabled"},
            "_meta": {"title": "Size"},
        },
        "3": {
            "class_type": "ReverieProbe",
            "inputs": {"image": ["2", 0], "seed": seed, "steps": steps, "step_ms": step_ms, "method": "invert"},
        },
    }
    for index, kind in enumerate(save):
        inputs = {"images": ["3" if index == 0 else "2", 0]}
        if kind == "SaveImage":
            inputs["filename_prefix"] = "reverie"
        nodes[str(4 + index)] = {"class_type": kind, "inputs": inputs}
    return nodes


class Recorder:
    def __init__(self, url, session):
        self.url, self.session = url, session
        self.prompt, self.client = str(uuid.uuid4()), str(uuid.uuid4())
        self.conversation, self.ended = [], asyncio.Event()

    def plain(self, value):
        """Without what differs from run to run."""
        if isinstance(value, dict):
            fixed = {"timestamp": 0, "traceback": []}
            return {self.plain(key): fixed.get(key, self.plain(item)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.plain(item) for item in value]
        if isinstance(value, str):
            value = value.replace(self.prompt, "PROMPT").replace(self.client, "CLIENT")
            return re.sub(r"/[^' ]*/input/", "/comfyui/input/", value)
        return value

    async def call(self, method, path, body=None, form=None, about=None):
        async with self.session.request(method, self.url + path, json=body, data=form) as answer:
            content, kind = await answer.read(), answer.headers.get("Content-Type", "")
        told = {"status": answer.status}
        if kind.startswith("application/json"):
            told["json"] = json.loads(content)
        elif content:
            told |= {"media_type": kind, "base64": base64.b64encode(content).decode()}
        asked = {"method": method, "path": path} | ({"json": body} if body is not None else {}) | (about or {})
        self.conversation.append({"asked": self.plain(asked), "answered": self.plain(told)})
        return told

    async def listen(self):
        socket = self.socket = await self.session.ws_connect(f"{self.url}/ws?clientId={self.client}")
        flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        await socket.send_json(flags)
        self.conversation.append({"sent": flags})

        async def read():
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    told = json.loads(message.data)
                    if told["type"] == "feature_flags":
                        told["data"] = {}
                    self.conversation.append({"text": self.plain(told)})
                    data = told.get("data", {})
                    if told["type"] == "executing" and data.get("node") is None and data.get("prompt_id") == self.prompt:
                        self.ended.set()
                else:
                    # A picture of a step: its kind, the length of a JSON object, the object, the picture.
                    kind, length = struct.unpack(">II", message.data[:8])
                    assert kind == 4, kind
                    about = self.plain(json.loads(message.data[8 : 8 + length]))
                    picture = base64.b64encode(message.data[8 + length :]).decode()
                    self.conversation.append({"preview": about, "base64": picture})

        self.reading = asyncio.create_task(read())
        await asyncio.sleep(0.2)

    async def upload(self, name, content):
        form = aiohttp.FormData({"type": "input"})
        form.add_field("image", io.BytesIO(content), filename=name, content_type="image/png")
        await self.call("POST", "/upload/image", form=form, about={"file": name})

    async def submit(self, nodes, prompt=None):
        body = {"prompt": nodes, "client_id": self.client, "prompt_id": prompt or self.prompt}
        return await self.call("POST", "/prompt", body)

    async def finish(self):
        await asyncio.wait_for(self.ended.wait(), 60)
        await asyncio.sleep(0.3)
        told = await self.call("GET", f"/history/{self.prompt}")
        for output in told["json"][self.prompt]["outputs"].values():
            for file in output.get("images", []):
                query = f"filename={file['filename']}&subfolder={file['subfolder']}&type={file['type']}"
                await self.call("GET", f"/view?{query}")


async def main(url, folder):
    folder = Path(folder)
    async with aiohttp.ClientSession() as session:

        async def record(name, about, drive):
            recorder = Recorder(url, session)
            await recorder.listen()
            await drive(recorder)
            await asyncio.sleep(0.2)
            recorder.reading.cancel()
            await recorder.socket.close()
            steps = ",\n".join(json.dumps(step) for step in recorder.conversation)
            (folder / f"{name}.json").write_text(f'{{"about": {json.dumps(about)}, "conversation": [\n{steps}\n]}}\n')
            print(name, len(recorder.conversation))

        async def run(recorder, **changes):
            await recorder.upload("reverie-a.png", png(12, 8))
            await recorder.submit(graph("reverie-a.png", **changes))
            await recorder.finish()

        seed = uuid.uuid4().int % 2**31

        async def interrupted(recorder):
            await recorder.submit(graph("reverie-a.png", steps=200, step_ms=150, seed=seed + 1))
            await asyncio.sleep(0.6)
            await recorder.call("GET", "/queue")
            await recorder.call("POST", "/interrupt", {"prompt_id": recorder.prompt})
            await recorder.finish()

        async def queued(recorder):
            # Another client's prompt keeps the server busy.
            other = Recorder(url, session)
            await other.submit(graph("reverie-a.png", steps=25, seed=seed + 2))
            await recorder.submit(graph("reverie-a.png", seed=seed + 3))
            await recorder.call("GET", "/queue")
            await recorder.call("POST", "/queue", {"delete": [recorder.prompt]})
            await recorder.call("GET", "/queue")
            await recorder.call("GET", f"/history/{recorder.prompt}")
            await asyncio.sleep(2)

        async def failing(recorder):
            await recorder.upload("reverie-broken.png", b"this is no picture")
            await recorder.submit(graph("reverie-broken.png"))
            await recorder.finish()

        async def refused(recorder):
            await recorder.submit(graph("not-there.png", width=20000))

        async def information(recorder):
            for name in CLASSES + ["NoSuchNode"]:
                await recorder.call("GET", f"/object_info/{name}")
            await recorder.call("GET", "/queue")
            await recorder.call("GET", "/history/unknown")
            told = await recorder.call("GET", "/system_stats")
            # Of this one only what is read; the rest tells of the machine.
            system = {"comfyui_version": told["json"]["system"]["comfyui_version"]}
            recorder.conversation[-1]["answered"]["json"] = {
                "system": system,
                "devices": [{"name": "cpu", "vram_total": 1024, "vram_free": 512}],
            }

        await record("information", "what is asked before a job", information)
        await record("plain", "a picture uploaded, scaled and saved", lambda r: run(r, seed=seed))
        await record("cached", "the same once more: nothing is computed", lambda r: run(r, seed=seed))
        both = ("SaveImage", "SaveImage")
        await record("two_images", "two nodes save", lambda r: run(r, save=both, seed=seed + 4))
        await record("preview_image", "only a picture to look at", lambda r: run(r, save=("PreviewImage",), seed=seed + 5))
        await record("node_error", "a node fails while it runs", failing)
        await record("refused", "the server refuses the prompt", refused)
        await record("interrupted", "interrupted while it runs", interrupted)
        await record("cancelled_queued", "deleted while it waits behind another prompt", queued)


asyncio.run(main(sys.argv[1], sys.argv[2]))
