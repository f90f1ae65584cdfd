"""What a picture may show and how it is called. A scene is drawn first, its captions follow from it."""

import hashlib
import random
from dataclasses import dataclass, field

# Backgrounds as (name, RGB); several words for one colour where people use several.
BACKGROUNDS = {
    "white": (250, 250, 250),
    "black": (22, 22, 26),
    "gray": (158, 160, 166),
    "red": (222, 62, 62),
    "orange": (248, 152, 56),
    "yellow": (252, 218, 82),
    "green": (92, 190, 102),
    "blue": (70, 128, 232),
    "purple": (150, 98, 214),
    "pink": (250, 168, 200),
    "brown": (142, 98, 70),
    "teal": (62, 184, 184),
    "light blue": (172, 216, 248),
    "dark blue": (34, 50, 112),
    "light green": (184, 232, 176),
    "dark green": (32, 92, 58),
}
SYNONYMS = {
    "gray": ["grey"],
    "teal": ["turquoise", "cyan"],
    "light blue": ["sky blue", "pale blue"],
    "dark blue": ["navy", "navy blue"],
    "purple": ["violet"],
    "light green": ["pale green", "mint"],
}
# Colours that an object can be given, as the hue's RGB and how bright it is.
PAINTS = {
    "red": ((1.0, 0.1, 0.1), 1.0),
    "orange": ((1.0, 0.55, 0.05), 1.0),
    "yellow": ((1.0, 0.88, 0.1), 1.0),
    "green": ((0.15, 0.8, 0.2), 1.0),
    "blue": ((0.1, 0.4, 1.0), 1.0),
    "purple": ((0.62, 0.2, 0.95), 1.0),
    "pink": ((1.0, 0.45, 0.72), 1.0),
    "brown": ((0.85, 0.5, 0.25), 0.62),
    "black": ((1.0, 1.0, 1.0), 0.3),
    "white": ((1.0, 1.0, 1.0), 1.15),
}
PAINT_NAMES = list(PAINTS)
BACKGROUND_NAMES = list(BACKGROUNDS)
LAYOUTS = ["plain", "small", "large", "left", "right", "two", "pair"]
# One in so many combinations is never trained on.
HELD_OUT = 16


@dataclass
class Thing:
    """An emoji by its number, painted or as it is."""

    emoji: int
    paint: str | None = None


@dataclass
class Scene:
    """What a picture shows. `layout` is one of LAYOUTS."""

    background: str
    things: list = field(default_factory=list)
    layout: str = "plain"


def chance(*key):
    """A number below HELD_OUT that depends on `key` alone."""
    return hashlib.sha256("/".join(map(str, key)).encode()).digest()[0] % HELD_OUT


def held_out(scene):
    """Whether the combination is kept from training: an object in a colour, or two objects together."""
    painted = any(thing.paint and chance("paint", thing.emoji, thing.paint) == 0 for thing in scene.things)
    pair = scene.layout == "pair" and chance("pair", *sorted(thing.emoji for thing in scene.things)) == 0
    return painted or pair


def scene(rng, count, first=None):
    """A random scene of some of `count` emoji; `first` is the number of the first object, where it is given."""
    pick = lambda: rng.randrange(count)
    first = pick() if first is None else first
    layout = rng.choices(LAYOUTS, [70, 4, 5, 4, 4, 5, 8])[0]
    # White is what people expect where they name nothing; other colours as often together.
    background = rng.choice(BACKGROUND_NAMES) if rng.random() < 0.85 else "white"
    paint = lambda: rng.choice(PAINT_NAMES) if rng.random() < 0.3 else None
    things = [Thing(first, paint())]
    if layout == "pair":
        second = pick()
        while second == first:
            second = pick()
        things.append(Thing(second, paint()))
    for thing in things:
        # White on white and black on black show nothing.
        if thing.paint in ("white", "black") and thing.paint == background:
            thing.paint = None
    return Scene(background, things, layout)


def article(noun):
    """The noun with "a" or "an"; plurals and what is no countable thing go without."""
    if noun.endswith("s") and not noun.endswith(("ss", "us")):
        return noun
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def plural(noun):
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun if noun.endswith("s") and not noun.endswith(("ss", "us")) else noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


class Captions:
    """Captions of scenes, given what the emoji are called."""

    def __init__(self, meta):
        self.meta = meta

    def name(self, rng, thing, plain):
        """A name without its colour where it is painted, with its own colour now and then where it is not."""
        entry = self.meta[thing.emoji]
        names, words = entry["names"], entry["words"]
        name = names[0] if plain else rng.choice(names)
        if not plain and words and rng.random() < 0.06:
            name = rng.choice(words)
        colour = thing.paint
        first, _, rest = name.partition(" ")
        if first in PAINTS and rest:
            name = rest
            colour = colour or first
        elif colour is None and entry.get("colour") and rng.random() < (0.0 if plain else 0.12):
            colour = entry["colour"]
        return f"{colour} {name}" if colour else name

    def background(self, rng, name, plain):
        if not plain and name in SYNONYMS and rng.random() < 0.35:
            return rng.choice(SYNONYMS[name])
        return name

    def caption(self, rng, scene, plain=False):
        """One of the scene's captions. `plain` gives the fullest, in the words that are most usual."""
        nouns = [self.name(rng, thing, plain) for thing in scene.things]
        noun = nouns[0]
        bare = not plain and rng.random() < 0.25
        thing = noun if bare else article(noun)
        size = rng.choice(["small", "tiny", "little"]) if scene.layout == "small" else None
        if scene.layout == "large":
            size = rng.choice(["large", "big", "huge"])
        place = {"left": "on the left", "right": "on the right"}
        if size:
            text = f"a {size} {noun}"
        elif scene.layout in place:
            text = f"{thing} {place[scene.layout]}"
        elif scene.layout == "two":
            text = f"two {plural(noun)}"
        elif scene.layout == "pair":
            left, right = map(article, nouns)
            text = rng.choice([f"{left} and {right}", f"{left} next to {right}", f"{left} left of {right}"])
        else:
            text = thing
        if not plain and len(scene.things) == 1 and rng.random() < 0.06:
            tags = self.meta[scene.things[0].emoji]["tags"]
            if tags:
                text += ", " + ", ".join(rng.sample(tags, min(2, len(tags)))).lower()
        if plain or rng.random() < 0.55:
            colour = self.background(rng, scene.background, plain)
            forms = [f" on a {colour} background"] * 3 + [f" on {colour}", f", {colour} background"]
            text += forms[0] if plain else rng.choice(forms)
        if not plain and rng.random() < 0.04:
            text = rng.choice(["a picture of ", "an image of ", "an icon of ", "an emoji of "]) + text
        return text.replace("on a orange", "on an orange")


def seeded(*key):
    """A generator for everything that `key` names."""
    return random.Random("/".join(map(str, key)))
