"""The corpus that comes with the project: made alike anywhere, and a fair test of both streams."""

from __future__ import annotations

import importlib
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spamo_cache import poses
from spamo_cache.datasets import registry
from spamo_cache.datasets.signed_weather import (
    NAME,
    add_poses,
    drop_out_of,
    grammar,
    lacks_poses,
    lexicon,
    make,
    manifest,
)
from spamo_cache.datasets.signed_weather.animate import offset, perform, shape
from spamo_cache.datasets.signed_weather.dialects import COAST, COASTAL_SIGNS, INLAND
from spamo_cache.datasets.signed_weather.grammar import ClipPlan
from spamo_cache.datasets.signed_weather.lexicon import LEXICON, Sign
from spamo_cache.datasets.signed_weather.signer import SIZE, Signer
from spamo_cache.errors import CorpusError
from spamo_cache.process import Process
from spamo_cache.video import probe, read_clip

# Its name within the package is the function's.
making: Any = importlib.import_module("spamo_cache.datasets.signed_weather.make")

SMALLEST = 28
SIZES = [(28, 0), (300, 0), (2000, 0), (300, 1)]


# --- making it ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few() -> Iterator[list[ClipPlan]]:
    """In place of a whole corpus three clips of one sign each, which are drawn in a second."""
    plans = [
        plan._replace(utterance=plan.utterance._replace(glosses=plan.utterance.glosses[:1]))
        for plan in islice(grammar.clips(SMALLEST), 3, 6)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "clips", lambda *_, **__: plans)
        yield plans


@pytest.fixture(scope="module")
def made(few: list[ClipPlan], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished corpus, to be left as it is."""
    root = tmp_path_factory.mktemp("signed-weather")
    make(root, SMALLEST, workers=1)
    return root


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def times(root: Path) -> dict[str, int]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.stat().st_mtime_ns for path in files}


def test_the_same_seed_gives_the_same_bytes_whoever_draws(
    few: list[ClipPlan], made: Path, tmp_path: Path
) -> None:
    assert make(tmp_path, SMALLEST, workers=2) == tmp_path / "manifest.parquet"
    found = contents(tmp_path)
    videos = [f"videos/{plan.id}.mp4" for plan in few]
    estimates = [f"poses/{plan.id}.pose" for plan in few]
    assert sorted(found) == sorted(["corpus.json", "manifest.parquet", *estimates, *videos])
    assert found == contents(made)
    assert len({found[name] for name in videos}) == len(few), "clips that should differ are equal"


def test_only_what_is_missing_is_made(few: list[ClipPlan], made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "cut")
    lost = ["manifest.parquet", *(f"videos/{plan.id}.mp4" for plan in few[:2])]
    for name in lost:
        (root / name).unlink()
    before = times(root)
    # What a killed run leaves is no video, and goes.
    me = Process.me()
    assert me is not None
    dead = replace(me, start=me.start - 1)
    (root / "videos" / f"{dead}.{'0' * 16}.tmp").write_bytes(b"half")
    calls: list[tuple[int, int]] = []
    make(root, SMALLEST, lambda done, total: calls.append((done, total)), workers=2)
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert contents(root) == contents(made)
    assert times(root).items() >= before.items()


def test_a_finished_corpus_is_left_alone(made: Path) -> None:
    before = times(made)
    calls: list[tuple[int, int]] = []
    make(made, SMALLEST, lambda done, total: calls.append((done, total)))
    assert not calls
    assert times(made) == before


def test_poses_are_added_to_a_finished_corpus_and_nothing_else_is_touched(
    few: list[ClipPlan], made: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(made, tmp_path / "of-an-earlier-version")
    shutil.rmtree(root / "poses")
    before = times(root)
    make(root, SMALLEST)
    assert contents(root) == contents(made)
    assert times(root).items() >= before.items()


def test_a_folders_name_says_how_often_its_poses_lose_a_hand(
    few: list[ClipPlan], made: Path, tmp_path: Path
) -> None:
    names = ("poses", "poses-drop-0", "poses-drop-35", "poses-drop-91", "poses-drop-05", "mine")
    assert [drop_out_of(name) for name in names] == [0.1, 0.0, 0.35, None, None, None]
    root = shutil.copytree(made, tmp_path / "corpus")
    assert not lacks_poses(root, NAME, "mine")
    assert lacks_poses(root, NAME, "poses-drop-35")
    add_poses(root, NAME, folder="poses-drop-35")
    others = [sorted((root / name).iterdir()) for name in ("poses", "poses-drop-35")]
    assert [a.name for a in others[0]] == [b.name for b in others[1]]
    assert any(a.read_bytes() != b.read_bytes() for a, b in zip(*others, strict=True))


def test_poses_are_where_the_drawing_is_and_lose_hands_as_often_as_asked(
    few: list[ClipPlan], made: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pose_format")
    clip = manifest(made).clips()[0]
    frames = read_clip(made, clip)
    seen: dict[float, list[poses.Pose]] = {}
    for share in (0.0, 0.1, 0.3):
        assert making.write_poses(few, tmp_path / str(share), share) == len(few)
        found = [poses.find(clip, made, tmp_path / str(share)) for clip in manifest(made).clips()]
        seen[share] = [poses.read(path) for path in found if path]
    whole = seen[0.0][0]
    assert (whole.fps, whole.frames, whole.width) == (15, len(frames), SIZE)
    assert {part: len(found) for part, found in poses.parts(whole).items()} == {
        "right-hand": 21, "left-hand": 21, "face": 17, "mouth": 6,
        "right-wrist": 1, "left-wrist": 1, "shoulders": 2, "upper-body": 9,
    }  # fmt: skip
    # The signer's right shoulder is cloth, on the viewer's left.
    right, left = whole.points[0, poses.parts(whole)["shoulders"]]
    assert right[0] < left[0]
    cloth = np.array(Signer.from_seed(few[0].signer).shirt) * 1.15
    for x, y in (right, left):
        assert np.abs(frames[0, int(y), int(x)] - cloth).max() < 30
    lost = {
        share: np.concatenate([each.select("RIGHT_HAND_LANDMARKS")[1][:, 0] for each in of]) == 0
        for share, of in seen.items()
    }
    assert not lost[0.0].any()
    assert 0 < lost[0.1].sum() < lost[0.3].sum()
    assert not (lost[0.1] & ~lost[0.3]).any()
    # In runs, and what is seen is the same at every rate.
    assert np.diff(lost[0.3].astype(int)).astype(bool).sum() < lost[0.3].sum()
    kept = seen[0.3][0].confidence > 0
    assert np.array_equal(seen[0.3][0].points[kept], whole.points[kept])


def test_another_size_in_the_same_folder_is_refused(made: Path) -> None:
    before = times(made)
    with pytest.raises(CorpusError, match=r'another corpus: .*"size": 28') as caught:
        make(made, SMALLEST + 1)
    assert caught.value.where == str(made)
    assert caught.value.remedy is not None
    assert "--root" in caught.value.remedy
    assert times(made) == before


def test_folders_and_sizes_that_cannot_be_are_one_clear_error(
    few: list[ClipPlan], tmp_path: Path
) -> None:
    with pytest.raises(CorpusError, match="27 clips"):
        make(tmp_path / "small", SMALLEST - 1)
    assert not (tmp_path / "small").exists()
    with pytest.raises(CorpusError, match="not been made here"):
        manifest(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match="cannot be written"):
        make(tmp_path / "file", SMALLEST)
    (tmp_path / "videos").touch()
    with pytest.raises(CorpusError, match="cannot be written"):
        make(tmp_path, SMALLEST)
    (tmp_path / "corpus.json").write_text("{")
    with pytest.raises(CorpusError, match="is not JSON"):
        make(tmp_path, SMALLEST)


def test_the_manifest_tells_what_was_planned(few: list[ClipPlan], made: Path) -> None:
    found = manifest(made)
    assert found.corpus == NAME
    for clip, plan in zip(found.clips(), few, strict=True):
        assert (clip.id, clip.split, clip.text) == (plan.id, plan.split, plan.utterance.german)
        assert (clip.signer, clip.language) == (f"signer-{plan.signer}", "German")
        assert clip.gloss == " ".join(plan.utterance.glosses)
        assert clip.extra == {"text_en": plan.utterance.english}


def test_frames_come_back_through_the_projects_own_reader(few: list[ClipPlan], made: Path) -> None:
    plan, clip = few[0], manifest(made).clips()[0]
    signer, rng = Signer.from_seed(plan.signer), np.random.default_rng(plan.seed)
    signs = [LEXICON[gloss] for gloss in plan.utterance.glosses]
    drawn = np.stack([signer.draw(beat.pose, rng) for beat in perform(signs, signer, rng)])
    assert probe(made, clip).frames == len(drawn)
    frames = read_clip(made, clip)
    assert frames.shape == drawn.shape == (len(drawn), SIZE, SIZE, 3)
    # H.264 loses some colour; red and blue exchanged would be far off.
    assert np.abs(frames.astype(int) - drawn).mean() < 4
    # The rate the registry tells is the files': 11 frames begin before the middle of the 11th.
    fps = registry.corpus(NAME).fps
    assert fps
    end = 10.5 / fps
    assert probe(made, replace(clip, start=0.0, end=end)).frames == 11


# --- splits -------------------------------------------------------------------------------------


def said(plan: ClipPlan) -> tuple[frozenset[str], tuple[str, ...]]:
    """What a clip means: time and place in whatever order, then the rest."""
    glosses = plan.utterance.glosses
    return frozenset(glosses[:2]), glosses[2:]


@cache
def every() -> tuple[ClipPlan, ...]:
    """Corpora of several sizes and seeds, together."""
    return tuple(plan for size, seed in SIZES for plan in grammar.clips(size, seed))


def of(split: str) -> list[ClipPlan]:
    return [plan for plan in every() if plan.split == split]


def test_a_meaning_stands_in_one_split_whatever_the_size() -> None:
    homes: defaultdict[object, set[str]] = defaultdict(set)
    for plan in every():
        homes[said(plan)].add(plan.split)
    assert {len(splits) for splits in homes.values()} == {1}


def test_no_sentence_of_one_split_occurs_in_another() -> None:
    sentences = {name: {p.utterance.german for p in of(name)} for name in ("train", "dev", "test")}
    assert len(sentences["train"]) > 1000
    for a, b in combinations(sentences.values(), 2):
        assert not a & b


def test_sizes_are_exact_and_the_larger_corpus_begins_with_the_smaller() -> None:
    small, large = list(grammar.clips(140)), list(grammar.clips(280))
    for split, count in (("test", 20), ("dev", 10), ("train", 110)):
        first = [plan for plan in small if plan.split == split]
        assert len(first) == count
        assert first == [plan for plan in large if plan.split == split][:count]
    assert len({plan.id for plan in large}) == len({plan.seed for plan in large}) == 280
    assert small != list(grammar.clips(140, seed=1))


def test_two_signers_sign_in_test_only() -> None:
    signers = {name: {plan.signer for plan in of(name)} for name in ("train", "dev", "test")}
    assert signers["test"] - signers["train"] - signers["dev"] == set(INLAND.unseen_signers)
    assert len(INLAND.unseen_signers) == 2
    assert signers["train"] == signers["dev"] == set(INLAND.signers)
    assert len({replace(Signer.from_seed(s), seed=0) for s in signers["test"]}) == 8


def structure(plan: ClipPlan) -> tuple[str, ...]:
    """The kinds of signs after time and place, in their order."""
    kinds = {
        "place": lexicon.REGIONS,
        "weather": lexicon.WEATHER,
        "degree": lexicon.DEGREES,
        "number": {**lexicon.NUMBERS, **lexicon.GRAD},
    }
    glosses = plan.utterance.glosses[2:]
    return tuple(kind for gloss in glosses for kind, signs in kinds.items() if gloss in signs)


def test_one_structure_stands_in_test_only_and_none_elsewhere_only() -> None:
    found = {name: {structure(plan) for plan in of(name)} for name in ("train", "dev", "test")}
    unseen = ("weather", "degree", "number", "number")
    assert found["train"] == found["dev"]
    assert found["test"] - found["train"] == {unseen}
    share = np.mean([structure(plan) == unseen for plan in of("test")])
    assert share == pytest.approx(1 / 6, abs=0.02)


# --- signs --------------------------------------------------------------------------------------


def path(movement: str, frames: int) -> list[tuple[float, float]]:
    return [offset(movement, k / (frames - 1)) for k in range(frames)]


@pytest.mark.parametrize(("a", "b"), [("up", "down"), ("left", "right")])
@pytest.mark.parametrize("frames", range(8, 15))
def test_opposite_strokes_are_each_other_backwards(a: str, b: str, frames: int) -> None:
    np.testing.assert_allclose(path(a, frames), path(b, frames)[::-1], atol=1e-12)
    assert not np.allclose(path(a, frames), path(b, frames))


def test_opposite_circles_pass_through_the_same_positions_the_other_way_round() -> None:
    # 300 steps of one and a half turns: the two halves of the circle share their points.
    circles = {name: np.array(path(name, 301)) for name in ("cw", "ccw")}
    places = {name: {tuple(at) for at in found.round(9)} for name, found in circles.items()}
    assert len(places["cw"]) == 200
    assert places["cw"] == places["ccw"]
    for name, sense in (("cw", -1), ("ccw", 1)):
        (x, y), (later_x, later_y) = circles[name][:-1].T, circles[name][1:].T
        assert (np.sign(x * later_y - y * later_x) == sense).all()


def differing(signs: list[Sign], *features: str) -> set[tuple[str, ...]]:
    """Values of these features; the signs must agree in all others and differ in these."""
    blank: dict[str, Any] = dict.fromkeys(features, "")
    assert len({replace(sign, **blank) for sign in signs}) == 1
    values = {tuple(getattr(sign, name) for name in features) for sign in signs}
    assert len(values) == len(signs)
    return values


def test_weekdays_differ_in_handshape_only() -> None:
    assert len(differing(list(lexicon.WEEKDAYS.values()), "handshape")) == 7


def test_directions_and_two_degrees_differ_in_movement_only() -> None:
    found = differing(list(lexicon.DIRECTIONS.values()), "movement")
    assert found == {("up",), ("down",), ("left",), ("right",)}
    differing([lexicon.DEGREES["STARK"], lexicon.DEGREES["LEICHT"]], "movement")


def test_numbers_need_both() -> None:
    found = differing(list(lexicon.NUMBERS.values()), "handshape", "movement")
    shapes, movements = map(set, zip(*found, strict=True))
    assert found == set(product(shapes, movements))
    assert (len(shapes), len(movements)) == (5, 3)


def test_every_sign_can_be_made_and_no_two_are_alike() -> None:
    assert len(set(LEXICON.values())) == len(LEXICON)
    assert len({shape(name).tobytes() for name in lexicon.HANDSHAPES}) == len(lexicon.HANDSHAPES)
    for sign in LEXICON.values():
        assert sign.handshape in lexicon.HANDSHAPES
        assert sign.place in lexicon.PLACES
        assert sign.movement in lexicon.MOVEMENTS
    for movement in lexicon.MOVEMENTS:
        assert np.abs(path(movement, 50)).max() <= 1.2


# --- language -----------------------------------------------------------------------------------

ADVERBIALS = {german for german, _ in (*grammar.TIME_TEXTS.values(), *grammar.PLACE_TEXTS.values())}
VERBS = {
    *("bildet", "bleibt", "fällt", "friert", "gewittert", "gibt", "ist", "liegt", "regnet"),
    *("scheint", "schneit", "weht", "werden", "wird", "zeigt", "ziehen"),
}


def test_every_gloss_is_in_the_lexicon_and_every_sign_is_used() -> None:
    assert {gloss for plan in every() for gloss in plan.utterance.glosses} == LEXICON.keys()
    assert grammar.TIME_TEXTS.keys() == lexicon.TIMES.keys()
    assert grammar.PLACE_TEXTS.keys() == lexicon.REGIONS.keys()
    assert grammar.WEATHER_TEXTS.keys() == lexicon.WEATHER.keys()
    for texts in grammar.WEATHER_TEXTS.values():
        assert texts.keys() == {None, *lexicon.DEGREES}


def test_the_verb_stands_second() -> None:
    openings = set()
    for plan in every():
        for number, clause in enumerate(plan.utterance.german.split(" und ")):
            (opening,) = [a for a in ADVERBIALS if clause.startswith(f"{a} ")]
            verb, *rest = clause.removeprefix(opening).split()
            assert verb in VERBS, clause
            assert not VERBS & set(rest), clause
            # Time and place: one opens the sentence, the other stands behind the verb.
            inside = [a for a in ADVERBIALS if f" {a} " in f" {' '.join(rest)} "]
            assert len(inside) == (1 if number == 0 else 0), clause
            openings.add(opening)
    assert openings == ADVERBIALS


def test_sentences_are_written_as_phoenix_writes_them() -> None:
    for plan in every():
        assert re.fullmatch(r"[a-zäöüß]+( [a-zäöüß]+)+", plan.utterance.german)
        assert re.fullmatch(r"[a-z-]+( [a-z-]+)+", plan.utterance.english)


def test_numbers_are_words_of_their_own() -> None:
    texts = [grammar.number_texts(number) for number in grammar.NUMBERS]
    assert len({german for german, _ in texts}) == len({english for _, english in texts}) == 15
    assert grammar.number_texts(21) == ("einundzwanzig", "twenty-one")
    assert grammar.number_texts(12) == ("zwölf", "twelve")


def test_everything_has_two_wordings_and_no_wording_says_two_things() -> None:
    clauses = [
        (clause, weather, degree)
        for weather, texts in grammar.WEATHER_TEXTS.items()
        for degree, (usual, other, _) in texts.items()
        for clause in (usual, other)
    ]
    assert len({clause for clause, _, _ in clauses}) == len(clauses)
    english = [text for texts in grammar.WEATHER_TEXTS.values() for *_, text in texts.values()]
    assert len(set(english)) == len(english)


@pytest.mark.slow
def test_a_changed_bit_in_the_manifest_never_changes_a_sentence(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    shutil.copytree(made, root, ignore=shutil.ignore_patterns("videos"))
    whole, table = manifest(root), root / "manifest.parquet"
    data = table.read_bytes()
    refused = 0
    for place in range(4, len(data), max(1, len(data) // 60)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        table.write_bytes(damaged)
        try:
            assert manifest(root).table.equals(whole.table)
        except CorpusError:
            refused += 1
    assert refused


# --- the second dialect -------------------------------------------------------------------------


def test_what_inland_is_scored_on_is_never_said_on_the_coast() -> None:
    """Pretraining on the coast must not have seen a sentence of inland's dev or test."""
    held_out = {p.utterance.german for p in grammar.clips(2000) if p.split != "train"}
    coast = list(grammar.clips(4000, dialect=COAST))
    assert held_out.isdisjoint(plan.utterance.german for plan in coast)
    splits = defaultdict(set)
    for plan in coast:
        splits[plan.split].add(plan.utterance.german)
    assert all(one.isdisjoint(other) for one, other in combinations(splits.values(), 2))
    assert set(splits) == {"train", "dev", "test"}


def test_on_the_coast_other_people_sign_and_a_third_of_the_signs_are_others() -> None:
    changed = {name for name, sign in COAST.lexicon.items() if sign != INLAND.lexicon[name]}
    assert changed == set(COASTAL_SIGNS)
    assert COAST.lexicon.keys() == INLAND.lexicon.keys()
    assert round(len(changed) / len(LEXICON), 1) == 0.3
    assert len(set(COAST.lexicon.values())) == len(COAST.lexicon), "two glosses share a sign"
    coast, inland = list(grammar.clips(300, dialect=COAST)), list(grammar.clips(300))
    for attribute in ("id", "signer", "seed"):
        ours, theirs = ({getattr(plan, attribute) for plan in one} for one in (coast, inland))
        assert ours.isdisjoint(theirs)
    assert {plan.signer for plan in coast} == {*COAST.signers, *COAST.unseen_signers}


def test_a_folder_holds_one_dialect(made: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r'another corpus: .*"corpus": "signed-weather"'):
        make(made, SMALLEST, name=COAST.name)
    make(tmp_path, SMALLEST, name=COAST.name, workers=1)
    assert manifest(tmp_path, COAST.name).corpus == COAST.name
    with pytest.raises(CorpusError, match="has not been made here"):
        manifest(tmp_path / "none", COAST.name)


def test_a_sign_of_the_coast_is_filmed_as_it_is_signed_there(tmp_path: Path) -> None:
    plan = next(p for p in grammar.clips(300, dialect=COAST) if "MONTAG" in p.utterance.glosses)
    plan = plan._replace(utterance=plan.utterance._replace(glosses=("MONTAG",)))
    for folder in ("videos", "poses"):
        (tmp_path / folder).mkdir()
    videos = []
    for dialect in (COAST, INLAND):
        making.film(plan._replace(dialect=dialect.name), tmp_path)
        videos.append((tmp_path / f"videos/{plan.id}.mp4").read_bytes())
    assert videos[0] != videos[1]
