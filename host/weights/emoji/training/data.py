"""The pictures and words that everything is trained on: `python data.py NODE_MODULES RUN`.

Reads the npm packages (see package.json) and writes RUN/emoji.npz and RUN/emoji.json: each emoji cropped to what is
visible and scaled to one side, so that composing a picture is a cheap resize later.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 128


def objects():
    """By objects.txt, CLDR short names in lower case: other names, and whether the model draws it."""
    found = {}
    for drawn, part in zip((True, False), (Path(__file__).parent / "objects.txt").read_text().split("\n\n")):
        entries = ",".join(line for line in part.splitlines() if not line.startswith("#")).lower().split(",")
        for name, _, others in (entry.partition(":") for entry in entries if entry.strip()):
            found[name.strip()] = [other.strip() for other in others.split("/") if others], drawn
    return found


def names(entry, others, keywords, counts):
    """What people call it, the plainest first: names, then words that few other emoji have."""
    label = entry["label"].lower()
    found = [*others, label]
    if entry.get("group") == 3 and label.endswith(" face"):
        found.insert(0, label.removesuffix(" face"))
    words = entry.get("tags", []) + [word.replace("_", " ") for word in keywords]
    rare = [word.lower() for word in words if counts.get(word.lower(), 9) <= 3]
    usable = [word for word in rare if re.fullmatch(r"[a-z][a-z' -]{2,20}", word)]
    return list(dict.fromkeys(found)), [word for word in dict.fromkeys(usable) if word not in found][:6]


def crop(path):
    """A square of SIDE around what is visible, in floats so that edges are not darkened by what is transparent."""
    image = Image.open(path).convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.convert("RGBa").resize((SIDE, SIDE), Image.LANCZOS))


def main(modules, run):
    modules, run = Path(modules), Path(run)
    run.mkdir(parents=True, exist_ok=True)
    assets = {path.stem: path for path in (modules / "@lobehub/fluent-emoji-3d/assets").glob("*.webp")}
    entries = json.loads((modules / "emojibase-data/en/data.json").read_text())
    library = json.loads((modules / "emojilib/dist/emoji-en-US.json").read_text())
    counts = {}
    for entry in entries:
        words = entry.get("tags", []) + [word.replace("_", " ") for word in library.get(entry.get("emoji"), [])]
        for word in {word.lower() for word in words}:
            counts[word] = counts.get(word, 0) + 1
    images, meta, wanted = [], [], objects()
    for entry in entries:
        if entry.get("group") is None or entry["label"].lower() not in wanted:
            continue
        others, drawn = wanted.pop(entry["label"].lower())
        code = entry["hexcode"].lower()
        forms = (code, code.replace("-fe0f", ""), code + "-fe0f")
        path = next(assets[form] for form in forms if form in assets)
        plain, other = names(entry, others, library.get(entry["emoji"], []), counts)
        images.append(crop(path))
        meta.append({"names": plain, "words": other, "tags": entry.get("tags", [])[:8], "drawn": drawn})
    np.savez(run / "emoji.npz", images=np.stack(images))
    (run / "emoji.json").write_text(json.dumps(meta, indent=0))
    print(len(meta), "emoji; no such emoji:", list(wanted))


if __name__ == "__main__":
    main(*sys.argv[1:])
