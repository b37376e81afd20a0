"""Prompts: the instruction, and pairs that never show what is to be translated."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.errors import ConfigError, UsageError
from spamo_cache.model.prompts import Prompts, Sentence, instruction
from spamo_cache.model.text import normalise
from spamo_cache.model.tokens import Tokens
from spamo_cache.train.data import prompts_of

INSTRUCTION = "Translate the given sentence into German."


def pipeline(pairs=("en", "fr"), prompt=None, **changes):
    llm = {"weights": "llm", "in_context_languages": list(pairs)} | (
        {"prompt": prompt} if prompt else {}
    )
    stage = {"steps": 1, "batch": 4, "lr": 1e-3}
    plain = {
        "name": "t",
        "question": "?",
        "corpus": "c",
        "spec": "s",
        "text": {"language": "German"},
        "llm": llm,
        "align": stage,
        "translate": stage,
    }
    return Pipeline.model_validate(plain | changes)


class Echo(Tokens):
    """Needs no files: prompts are compared as texts."""

    def __init__(self):
        pass

    def prompts(self, texts):
        return [[ord(letter) for letter in text] for text in texts]


def sentence(clip, text=None, **translations):
    return Sentence(clip, text or f"satz {clip}", "German", translations)


TRAINING = [sentence(f"t{i}", en=f"sentence {i}", fr=f"phrase {i}") for i in range(20)]


def prompts(config=None, training=TRAINING, held_out=()):
    return Prompts(config or pipeline(), Echo(), training, held_out)


def test_shows_another_sentence_in_each_language():
    text = prompts().texts([sentence("new")])[0]
    number = int(text.rpartition(" t")[2])
    pair = f"satz t{number}"
    assert text == f"{INSTRUCTION} sentence {number}={pair} phrase {number}={pair}"


def test_pairs_hang_on_seed_clip_and_draw_alone():
    new = [sentence(f"n{i}") for i in range(8)]
    whole = prompts().texts(new, draw=3)
    assert whole == prompts().texts(new, draw=3)
    assert whole[::-1] == prompts().texts(new[::-1], draw=3)
    assert whole[2:3] == prompts().texts(new[2:3], draw=3)
    assert whole != prompts().texts(new, draw=4)
    assert whole != prompts(pipeline(seed=1)).texts(new, draw=3)


def test_ids_are_the_tokens_of_the_texts():
    new = [sentence("a"), sentence("b")]
    made = prompts(pipeline(pairs=(), prompt="über {language}"))
    ids = made.ids(new)
    assert "".join(map(chr, ids.rows.tolist())) == "über German" * 2
    longer = prompts().ids([sentence("a"), sentence("b")], draw=2)
    texts = prompts().texts(new, draw=2)
    assert "".join(map(chr, longer.rows.tolist())) == "".join(texts)
    assert longer.sizes == tuple(longer.lengths.tolist()) == tuple(map(len, texts))


def test_a_prompt_for_each_language():
    config = pipeline((), {"German": "Übersetze ins {language}e.", "English": "Translate."})
    assert instruction(config.llm, "German") == "Übersetze ins Germane."
    mixed = [Sentence("a", "x", "English"), Sentence("b", "y", "German")]
    assert prompts(config).texts(mixed) == ["Translate.", "Übersetze ins Germane."]
    with pytest.raises(ConfigError, match="no prompt for language 'Polish'"):
        prompts(config).texts([Sentence("c", "z", "Polish")])


def test_a_sentence_said_twice_is_no_pair_for_itself():
    twins = [sentence("t0", "Regen im Norden.", en="rain"), sentence("t1", "schnee", en="snow")]
    made = prompts(pipeline(pairs=("en",)), twins)
    for draw in range(20):
        text = made.texts([sentence("new", "regen im norden")], draw)[0]
        assert text == f"{INSTRUCTION} snow=schnee"


def test_without_another_sentence_there_is_no_pair():
    made = prompts(pipeline(pairs=("en",)), [sentence("t0", "regen", en="rain")])
    assert made.texts([sentence("t0", "regen")]) == [INSTRUCTION]


def test_a_corpus_without_translations_is_a_config_error():
    with pytest.raises(ConfigError, match="text_en, text_fr"):
        prompts(training=[sentence("t0", en="rain")])


def test_the_release_shows_the_rest_of_the_batch():
    config = pipeline(pairs=("en",), protocol={"pairs_from_batch": True})
    batch = [sentence(f"b{i}", en=f"test {i}") for i in range(5)]
    made = prompts(config, training=[])
    for draw in range(10):
        shown = [text.rpartition(" b")[2] for text in made.texts(batch, draw)]
        assert sorted(shown) == list("01234")
        assert all(found != str(place) for place, found in enumerate(shown))
    assert made.texts(batch[:1]) == [INSTRUCTION]


# --- no reference of dev or test can reach a prompt ---------------------------------------------

_WORDS = st.sampled_from(["regen", "Regen", "schnee", "sonne", "im norden", "heute", "heute ."])
_TEXT = st.lists(_WORDS, min_size=1, max_size=3).map(" ".join)
_CLIPS = st.lists(
    st.tuples(st.sampled_from(["train", "train", "dev", "test", "extra"]), _TEXT),
    min_size=1,
    max_size=12,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(clips=_CLIPS, draw=st.integers(0, 3), dot=st.booleans(), lower=st.booleans())
def test_no_reference_of_dev_or_test_can_reach_a_prompt(clips, draw, dot, lower):
    manifest = Manifest.from_clips(
        "c",
        [
            Clip(
                id=f"c{i}",
                split=split,
                source=f"c{i}.mp4",
                text=text,
                language="German",
                extra={"text_en": f"<{split} {i}>"},
            )
            for i, (split, text) in enumerate(clips)
        ],
    )
    config = pipeline(("en",), text={"language": "German", "final_dot": dot, "lower": lower})
    try:
        made = prompts_of(config, manifest, Echo())
    except UsageError:
        # No training split, or none of its sentences may be shown.
        return
    spoken = {
        clip.id: Sentence(clip.id, normalise(clip.text, config.text), clip.language)
        for clip in manifest.clips()
    }
    hidden = {spoken[clip.id].text for clip in manifest.clips() if clip.split != "train"}
    for clip, text in zip(spoken, made.texts(list(spoken.values()), draw), strict=True):
        pair = text.removeprefix(INSTRUCTION).strip()
        if not pair:
            continue
        source, _, target = pair.partition("=")
        assert source.startswith("<train ")
        assert target not in hidden
        assert target != spoken[clip].text
