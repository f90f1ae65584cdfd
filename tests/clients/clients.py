"""Third-party clients against a running server: python clients.py HOST:PORT"""

import base64
import io
import sys
import urllib.request

import openai
import webuiapi
from PIL import Image

address = sys.argv[1]
host, port = address.split(":")


def png(width, height, alpha=255):
    content = io.BytesIO()
    Image.new("RGBA", (width, height), (200, 90, 30, alpha)).save(content, "PNG")
    return content.getvalue()


# OpenAI's images API.
client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="unused", max_retries=0)
made = client.images.generate(model="dall-e-3", prompt="a cat", size="64x64", n=2, response_format="b64_json")
assert len(made.data) == 2
for item in made.data:
    assert Image.open(io.BytesIO(base64.b64decode(item.b64_json))).size == (64, 64)
made = client.images.generate(model="sd", prompt="a cat", size="64x64", extra_body={"seed": 5, "steps": 2})
assert made.data[0].b64_json and not made.data[0].url
made = client.images.generate(model="sd", prompt="a cat", size="64x64", response_format="url", extra_body={"seed": 5, "steps": 2})
with urllib.request.urlopen(made.data[0].url) as answer:
    assert Image.open(answer).size == (64, 64)
edited = client.images.edit(
    image=("a.png", png(64, 64)), mask=("m.png", png(64, 64, alpha=0)), prompt="a dog", n=1, response_format="b64_json"
)
assert Image.open(io.BytesIO(base64.b64decode(edited.data[0].b64_json))).size == (64, 64)
for wrong, said in [({"n": "two"}, "1 to 10"), ({"model": "nope"}, "there is no 'nope'"), ({"n": 11}, "1 to 10"), ({"size": "63x64"}, "multiples of 8")]:
    try:
        client.images.generate(**({"model": "sd", "prompt": "x", "size": "64x64"} | wrong))
        raise SystemExit(f"{wrong} was accepted")
    except openai.BadRequestError as error:
        assert said in error.body["message"], error.body

# AUTOMATIC1111's API.
api = webuiapi.WebUIApi(host=host, port=int(port))
assert sorted(model["model_name"] for model in api.get_sd_models()) == ["emoji", "sd"]
assert "Euler a" in [sampler["name"] for sampler in api.get_samplers()]
made = api.txt2img(prompt="a cat, 猫, Käse", negative_prompt="a dog", seed=7, steps=3, cfg_scale=7, width=64, height=64, sampler_name="Euler a", batch_size=2)
assert [image.size for image in made.images] == [(64, 64)] * 2, made
assert made.info["all_seeds"] == [7, 8] and "Negative prompt: a dog" in made.info["infotexts"][0], made.info
assert made.images[0].info["parameters"] == made.info["infotexts"][0]
again = api.img2img(images=[made.images[0]], prompt="a cat", seed=7, steps=4, width=64, height=64, denoising_strength=0.5)
assert again.image.size == (64, 64) and "Denoising strength: 0.5" in again.image.info["parameters"]
assert api.get_progress()["progress"] == 0.0
assert api.get_options()["sd_model_checkpoint"] == "sd"
api.set_options({"sd_model_checkpoint": "sd"})
api.interrupt()

print("all clients are served")
