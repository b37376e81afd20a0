"""The signs of signed-weather: which hand, where, how it moves.

A toy language drawn for this project; it is not DGS, nor any other language of the deaf. What it
keeps from real ones is what decides between signs: handshape (weekdays), movement (directions,
degrees), or both together (numbers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Handshape(NamedTuple):
    """Index, middle, ring and little finger from 0 (folded) to 1 (straight), and the thumb."""

    fingers: tuple[float, float, float, float]
    spread: float
    """Angle between neighbouring fingers, radians."""
    thumb: float
    """0 across the palm, 1 stretched out sideways."""
    ring: float = 0.0
    """1 where thumb and index close to a ring."""


HANDSHAPES = {
    "fist": Handshape((0, 0, 0, 0), 0.1, 0.0),
    "flat": Handshape((1, 1, 1, 1), 0.07, 0.0),
    "five": Handshape((1, 1, 1, 1), 0.34, 1.0),
    "four": Handshape((1, 1, 1, 1), 0.30, 0.0),
    "three": Handshape((1, 1, 0, 0), 0.42, 1.0),
    "vee": Handshape((1, 1, 0, 0), 0.42, 0.0),
    "index": Handshape((1, 0, 0, 0), 0.1, 0.0),
    "ell": Handshape((1, 0, 0, 0), 0.1, 1.0),
    "why": Handshape((0, 0, 0, 1), 0.3, 1.0),
    "pinky": Handshape((0, 0, 0, 1), 0.3, 0.0),
    "horns": Handshape((1, 0, 0, 1), 0.30, 0.0),
    "thumb": Handshape((0, 0, 0, 0), 0.1, 1.0),
    "oh": Handshape((0, 0, 0, 0), 0.1, 0.0, 1.0),
    "eff": Handshape((0, 1, 1, 1), 0.34, 0.0, 1.0),
}

PLACES = {
    # Centre of the right palm in shoulder widths from the neck: x to the viewer's right, y up.
    "temple": (-0.60, 0.72),
    "chin": (-0.22, 0.22),
    "high": (-0.98, 0.62),
    "side": (-1.02, -0.12),
    "chest": (-0.30, -0.42),
    "belly": (-0.42, -0.98),
}

MOVEMENTS = ("hold", "up", "down", "left", "right", "cw", "ccw", "shake", "tap", "arc")


@dataclass(frozen=True, slots=True)
class Sign:
    """One sign of the lexicon."""

    handshape: str
    place: str
    movement: str
    roll: float = 0.0
    """Turn of the hand in the picture plane, radians; positive towards the viewer's right."""
    both: bool = False
    """The left hand mirrors the right."""
    head_shake: bool = False


WEEKDAYS = {
    day: Sign(shape, "side", "tap")
    for day, shape in {
        "MONTAG": "ell",
        "DIENSTAG": "horns",
        "MITTWOCH": "five",
        "DONNERSTAG": "fist",
        "FREITAG": "eff",
        "SAMSTAG": "why",
        "SONNTAG": "oh",
    }.items()
}
TIMES = {
    **WEEKDAYS,
    "HEUTE": Sign("flat", "belly", "tap", both=True),
    "MORGEN": Sign("thumb", "temple", "arc"),
    "NACHT": Sign("flat", "chest", "arc", roll=0.9, both=True),
}
DIRECTIONS = {
    "NORD": Sign("index", "chest", "up"),
    "SUED": Sign("index", "chest", "down"),
    "WEST": Sign("index", "chest", "left"),
    "OST": Sign("index", "chest", "right"),
}
REGIONS = {
    **DIRECTIONS,
    "MITTE": Sign("index", "chest", "cw"),
    "KUESTE": Sign("flat", "belly", "shake"),
    "BERGE": Sign("vee", "temple", "up", both=True),
}
WEATHER = {
    "REGEN": Sign("five", "high", "down", both=True),
    "SCHNEE": Sign("four", "high", "shake", both=True),
    "SONNE": Sign("oh", "high", "cw"),
    "WOLKE": Sign("flat", "temple", "cw", both=True),
    "NEBEL": Sign("five", "chin", "ccw", both=True),
    "GEWITTER": Sign("horns", "temple", "down"),
    "WIND": Sign("flat", "high", "left"),
    "FROST": Sign("fist", "chest", "shake", both=True),
}
DEGREES = {
    "STARK": Sign("fist", "belly", "right"),
    "LEICHT": Sign("fist", "belly", "left"),
    "NICHT": Sign("index", "chin", "shake", head_shake=True),
}
UNIT_SHAPES = ("index", "vee", "three", "four", "five")
DECADE_MOVEMENTS = {0: "up", 10: "down", 20: "left"}
NUMBERS = {
    f"N{decade + unit}": Sign(shape, "side", movement)
    for decade, movement in DECADE_MOVEMENTS.items()
    for unit, shape in enumerate(UNIT_SHAPES, start=1)
}
GRAD = {"GRAD": Sign("oh", "chin", "hold")}

LEXICON: dict[str, Sign] = {**TIMES, **REGIONS, **WEATHER, **DEGREES, **NUMBERS, **GRAD}
