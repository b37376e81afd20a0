"""Weather reports: a meaning -> glosses, German, English; and the clips of each split.

German is lower case without a final dot, as PHOENIX14T writes it. Signs come as time, place,
weather, degree, number; the sentence is verb-second, so the orders differ. Every meaning has
paraphrases; which one a clip gets is chance, so no system can reach BLEU 100.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from spamo_cache.datasets.signed_weather.dialects import INLAND, Dialect
from spamo_cache.datasets.signed_weather.lexicon import (
    DECADE_MOVEMENTS,
    REGIONS,
    TIMES,
    UNIT_SHAPES,
    WEATHER,
)

Kind = Literal["weather", "number", "both", "two-clauses", "everything"]
Degree = Literal["STARK", "LEICHT", "NICHT"]

TRAIN_KINDS: dict[Kind, float] = {
    "weather": 0.38,
    "number": 0.20,
    "both": 0.20,
    "two-clauses": 0.22,
}
UNSEEN_KIND: Kind = "everything"
"""Weather with a degree and a number: a structure that stands in inland's test split only."""


class Clause(NamedTuple):
    """A German main clause without its adverbials: verb, what follows it, what ends it."""

    verb: str
    lead: str
    tail: str

    def german(self, first: str, second: str) -> str:
        """Verb-second order: one adverbial before the verb, the other behind the lead."""
        return " ".join(part for part in (first, self.verb, self.lead, second, self.tail) if part)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a report says; equal meanings never stand in two splits."""

    time: str
    place: str
    weather: str | None = None
    degree: Degree | None = None
    number: int | None = None
    place2: str | None = None
    weather2: str | None = None


class Utterance(NamedTuple):
    """One way of signing and writing a meaning."""

    glosses: tuple[str, ...]
    german: str
    english: str


class ClipPlan(NamedTuple):
    """A clip before it is drawn."""

    id: str
    split: str
    signer: int
    seed: int
    utterance: Utterance
    dialect: str


TIME_TEXTS = {
    "MONTAG": ("am montag", "on monday"),
    "DIENSTAG": ("am dienstag", "on tuesday"),
    "MITTWOCH": ("am mittwoch", "on wednesday"),
    "DONNERSTAG": ("am donnerstag", "on thursday"),
    "FREITAG": ("am freitag", "on friday"),
    "SAMSTAG": ("am samstag", "on saturday"),
    "SONNTAG": ("am sonntag", "on sunday"),
    "HEUTE": ("heute", "today"),
    "MORGEN": ("morgen", "tomorrow"),
    "NACHT": ("in der nacht", "at night"),
}
PLACE_TEXTS = {
    "NORD": ("im norden", "in the north"),
    "SUED": ("im süden", "in the south"),
    "WEST": ("im westen", "in the west"),
    "OST": ("im osten", "in the east"),
    "MITTE": ("in der mitte", "in the centre"),
    "KUESTE": ("an der küste", "at the coast"),
    "BERGE": ("in den bergen", "in the mountains"),
}
# weather -> degree -> (two German clauses, English)
WEATHER_TEXTS: dict[str, dict[Degree | None, tuple[Clause, Clause, str]]] = {
    "REGEN": {
        None: (Clause("regnet", "es", ""), Clause("fällt", "", "regen"), "rain"),
        "STARK": (
            Clause("regnet", "es", "kräftig"),
            Clause("fällt", "", "starker regen"),
            "heavy rain",
        ),
        "LEICHT": (
            Clause("regnet", "es", "ein wenig"),
            Clause("fällt", "", "leichter regen"),
            "light rain",
        ),
        "NICHT": (Clause("bleibt", "es", "trocken"), Clause("fällt", "", "kein regen"), "no rain"),
    },
    "SCHNEE": {
        None: (Clause("schneit", "es", ""), Clause("fällt", "", "schnee"), "snow"),
        "STARK": (
            Clause("schneit", "es", "kräftig"),
            Clause("fällt", "", "viel schnee"),
            "heavy snow",
        ),
        "LEICHT": (
            Clause("schneit", "es", "ein wenig"),
            Clause("fällt", "", "etwas schnee"),
            "light snow",
        ),
        "NICHT": (Clause("schneit", "es", "nicht"), Clause("fällt", "", "kein schnee"), "no snow"),
    },
    "SONNE": {
        None: (
            Clause("scheint", "die sonne", ""),
            Clause("zeigt", "sich", "die sonne"),
            "sunshine",
        ),
        "STARK": (
            Clause("scheint", "die sonne", "den ganzen tag"),
            Clause("ist", "es", "sehr sonnig"),
            "plenty of sunshine",
        ),
        "LEICHT": (
            Clause("scheint", "die sonne", "nur kurz"),
            Clause("zeigt", "sich", "die sonne selten"),
            "little sunshine",
        ),
        "NICHT": (
            Clause("scheint", "die sonne", "nicht"),
            Clause("zeigt", "sich", "keine sonne"),
            "no sunshine",
        ),
    },
    "WOLKE": {
        None: (Clause("ziehen", "", "wolken auf"), Clause("ist", "es", "bewölkt"), "clouds"),
        "STARK": (
            Clause("ziehen", "", "dichte wolken auf"),
            Clause("ist", "es", "stark bewölkt"),
            "thick clouds",
        ),
        "LEICHT": (
            Clause("ziehen", "", "lockere wolken auf"),
            Clause("ist", "es", "leicht bewölkt"),
            "light clouds",
        ),
        "NICHT": (
            Clause("gibt", "es", "keine wolken"),
            Clause("ist", "es", "wolkenlos"),
            "no clouds",
        ),
    },
    "NEBEL": {
        None: (Clause("bildet", "sich", "nebel"), Clause("wird", "es", "neblig"), "fog"),
        "STARK": (
            Clause("bildet", "sich", "dichter nebel"),
            Clause("wird", "es", "sehr neblig"),
            "dense fog",
        ),
        "LEICHT": (
            Clause("bildet", "sich", "leichter nebel"),
            Clause("wird", "es", "etwas neblig"),
            "light fog",
        ),
        "NICHT": (
            Clause("bildet", "sich", "kein nebel"),
            Clause("wird", "es", "nicht neblig"),
            "no fog",
        ),
    },
    "GEWITTER": {
        None: (Clause("gibt", "es", "gewitter"), Clause("gewittert", "es", ""), "thunderstorms"),
        "STARK": (
            Clause("gibt", "es", "schwere gewitter"),
            Clause("gewittert", "es", "heftig"),
            "severe thunderstorms",
        ),
        "LEICHT": (
            Clause("gibt", "es", "leichte gewitter"),
            Clause("gewittert", "es", "ein wenig"),
            "light thunderstorms",
        ),
        "NICHT": (
            Clause("gibt", "es", "keine gewitter"),
            Clause("gewittert", "es", "nicht"),
            "no thunderstorms",
        ),
    },
    "WIND": {
        None: (Clause("weht", "", "wind"), Clause("ist", "es", "windig"), "wind"),
        "STARK": (
            Clause("weht", "", "starker wind"),
            Clause("ist", "es", "stürmisch"),
            "strong wind",
        ),
        "LEICHT": (
            Clause("weht", "", "schwacher wind"),
            Clause("ist", "es", "etwas windig"),
            "light wind",
        ),
        "NICHT": (Clause("weht", "", "kein wind"), Clause("ist", "es", "windstill"), "no wind"),
    },
    "FROST": {
        None: (Clause("gibt", "es", "frost"), Clause("friert", "es", ""), "frost"),
        "STARK": (
            Clause("gibt", "es", "strengen frost"),
            Clause("friert", "es", "stark"),
            "severe frost",
        ),
        "LEICHT": (
            Clause("gibt", "es", "leichten frost"),
            Clause("friert", "es", "ein wenig"),
            "light frost",
        ),
        "NICHT": (
            Clause("gibt", "es", "keinen frost"),
            Clause("friert", "es", "nicht"),
            "no frost",
        ),
    },
}
_UNITS = ("", "ein", "zwei", "drei", "vier", "fünf")
_TEENS = ("", "elf", "zwölf", "dreizehn", "vierzehn", "fünfzehn")
_ENGLISH = ("", "one", "two", "three", "four", "five")
_ENGLISH_TEENS = ("", "eleven", "twelve", "thirteen", "fourteen", "fifteen")
NUMBERS = tuple(d + u for d in DECADE_MOVEMENTS for u in range(1, len(UNIT_SHAPES) + 1))


def number_texts(number: int) -> tuple[str, str]:
    """A temperature in German and English; units 1 to 5 with decades 0, 10 and 20."""
    decade, unit = number - number % 10, number % 10
    match decade:
        case 0:
            return _UNITS[unit], _ENGLISH[unit]
        case 10:
            return _TEENS[unit], _ENGLISH_TEENS[unit]
        case 20:
            return f"{_UNITS[unit]}undzwanzig", f"twenty-{_ENGLISH[unit]}"
    raise ValueError(number)


def meaning(kind: Kind, rng: random.Random) -> Meaning:
    """A random report of one structure."""
    time, place = rng.choice(list(TIMES)), rng.choice(list(REGIONS))
    weather, number = rng.choice(list(WEATHER)), rng.choice(NUMBERS)
    degrees: tuple[Degree, ...] = ("STARK", "LEICHT", "NICHT")
    match kind:
        case "weather":
            return Meaning(time, place, weather, rng.choice((None, *degrees)))
        case "number":
            return Meaning(time, place, number=number)
        case "both":
            return Meaning(time, place, weather, number=number)
        case "two-clauses":
            place2 = rng.choice([p for p in REGIONS if p != place])
            weather2 = rng.choice([w for w in WEATHER if w != weather])
            return Meaning(time, place, weather, place2=place2, weather2=weather2)
        case "everything":
            return Meaning(time, place, weather, rng.choice(degrees), number)


def express(content: Meaning, rng: random.Random) -> Utterance:
    """Glosses, German and English of a meaning; order and wording by chance."""
    time_first = rng.random() < 0.6
    # Signers open with what the sentence opens with, mostly.
    signed_time_first = time_first if rng.random() < 0.9 else not time_first
    glosses = [content.time, content.place] if signed_time_first else [content.place, content.time]
    adverbials = [TIME_TEXTS[content.time], PLACE_TEXTS[content.place]]
    if not time_first:
        adverbials.reverse()
    clause, english = _core(content, rng)
    german = clause.german(adverbials[0][0], adverbials[1][0])
    english = f"{adverbials[0][1]} {adverbials[1][1]} there will be {english}"
    if content.weather is not None:
        glosses += [content.weather, *([content.degree] if content.degree else [])]
    if content.number is not None:
        glosses += [f"N{content.number}", "GRAD"]
        if content.weather is not None:
            words, number = number_texts(content.number)
            german += f" bei {words} grad"
            english += f" at {number} {'degree' if content.number == 1 else 'degrees'}"
    if content.place2 is not None and content.weather2 is not None:
        glosses += [content.place2, content.weather2]
        more, more_english = _weather(content.weather2, None, rng)
        german += " und " + more.german(PLACE_TEXTS[content.place2][0], "")
        english += f" and {PLACE_TEXTS[content.place2][1]} {more_english}"
    return Utterance(tuple(glosses), german, english)


def _core(content: Meaning, rng: random.Random) -> tuple[Clause, str]:
    if content.weather is not None:
        return _weather(content.weather, content.degree, rng)
    if content.number is None:
        raise ValueError(content)
    words, english = number_texts(content.number)
    degrees = "degree" if content.number == 1 else "degrees"
    if rng.random() < 0.7:
        verb = "wird" if content.number == 1 else "werden"
        return Clause(verb, "es", f"{words} grad"), f"{english} {degrees}"
    return Clause("liegt", "die temperatur", f"bei {words} grad"), f"{english} {degrees}"


def _weather(weather: str, degree: Degree | None, rng: random.Random) -> tuple[Clause, str]:
    usual, other, english = WEATHER_TEXTS[weather][degree]
    return (usual if rng.random() < 0.7 else other), english


def home_split(kind: Kind, content: Meaning, dialect: Dialect = INLAND) -> str:
    """The only split of a dialect in which a meaning may stand, at any size of the corpus.

    A tenth of the meanings belongs to test and a twentieth to dev, by hash; so does all of the
    structure that training never shows. The language model is pretrained on ``train`` alone. What
    inland's dev or test may say has no home in another dialect: pretraining must not see it.
    """
    ranks = hashlib.sha256(repr(content).encode()).digest()
    if dialect is INLAND:
        return "test" if kind == UNSEEN_KIND else _share(ranks[0])
    return _share(ranks[1]) if home_split(kind, content) == "train" else ""


def _share(rank: int) -> str:
    return "test" if rank < 26 else "dev" if rank < 39 else "train"


def clips(size: int, seed: int = 0, dialect: Dialect = INLAND) -> Iterator[ClipPlan]:
    """The clips of a corpus of ``size`` clips: a seventh test, a fourteenth dev.

    Half of the test clips are signed by people, and inland a sixth of them have a structure, that
    training never shows.
    """
    test, dev = max(1, size // 7), max(1, size // 14)
    for split, count in (("test", test), ("dev", dev), ("train", size - test - dev)):
        # One stream of chance per split: a larger corpus begins with the smaller one.
        rng = random.Random(f"{dialect.name} {seed} {split}")  # noqa: S311
        for index in range(count):
            unseen = dialect is INLAND and split == "test" and index % 6 == 0
            content = _meaning_of(split, UNSEEN_KIND if unseen else None, rng, dialect)
            new = split == "test" and index % 2
            yield ClipPlan(
                id=f"{dialect.prefix}{split}-{index:05d}",
                split=split,
                signer=rng.choice(dialect.unseen_signers if new else dialect.signers),
                seed=rng.randrange(2**31),
                utterance=express(content, rng),
                dialect=dialect.name,
            )


def _meaning_of(split: str, kind: Kind | None, rng: random.Random, dialect: Dialect) -> Meaning:
    while True:
        (chosen,) = [kind] if kind else rng.choices(list(TRAIN_KINDS), list(TRAIN_KINDS.values()))
        content = meaning(chosen, rng)
        if home_split(chosen, content, dialect) == split:
            return content
