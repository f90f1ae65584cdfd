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
WOMAN, MAN, PERSON = "1F469", "1F468", "1F9D1"
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
# Symbols are mostly writing and arrows, which a small model turns into noise; these are things.
SYMBOLS = (
    "circle|square|diamond|recycling|radioactive|biohazard|yin yang|peace symbol|star of David|om$|wheel of dharma|"
    "trident|musical note|eject|warning|no entry|prohibited|question mark|exclamation mark|check mark|cross mark|"
    "cinema|radio button|hundred|red heart|atom|infinity|plus|Aries|Leo|Gemini"
)


def wanted(entry):
    """Whether one is in the set. Left out are variants that differ in little: flags, clocks, families, genders."""
    code, label, group = entry["hexcode"], entry["label"], entry.get("group")
    if group is None or group == 2:
        return False
    if group == 9:
        return label.split()[0] in ("chequered", "pirate", "rainbow", "triangular", "black", "white")
    if group == 8:
        return re.search(SYMBOLS, label) is not None
    if re.search(r"o.clock|-thirty|family|couple with heart:|kiss:|facing right", label):
        return False
    if re.search(r"-200D-(2640|2642)(-FE0F)?$", code):
        return False
    return not (group == 1 and code.startswith(PERSON + "-200D"))


def names(entry, keywords, counts):
    """What people call it, the plainest first: the name, then words that few others have."""
    label = entry["label"].lower().replace("’", "'").replace("“", "").replace("”", "").replace(":", "")
    found = [label]
    if entry.get("group") == 3 and label.endswith(" face"):
        found.append(label.removesuffix(" face"))
    plain = re.sub(r"^(man|woman) ", "", label)
    if entry["hexcode"].split("-")[0] in (WOMAN, MAN) and plain != label:
        found.append(plain)
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
    images, meta = [], []
    for entry in entries:
        code = entry["hexcode"].lower()
        forms = (code, code.replace("-fe0f", ""), code + "-fe0f")
        path = next((assets[form] for form in forms if form in assets), None)
        if path is None or not wanted(entry):
            continue
        plain, other = names(entry, library.get(entry["emoji"], []), counts)
        images.append(crop(path))
        meta.append({"names": plain, "words": other, "group": entry["group"], "tags": entry.get("tags", [])[:8]})
    np.savez(run / "emoji.npz", images=np.stack(images))
    (run / "emoji.json").write_text(json.dumps(meta, indent=0))
    print(len(meta), "emoji")


if __name__ == "__main__":
    main(*sys.argv[1:])
