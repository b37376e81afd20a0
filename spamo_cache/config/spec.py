"""The cache spec: exactly how the streams of a corpus are computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from spamo_cache.config.strict import Name, StrictModel

Unit = Literal["frame", "window"]
Reader = Literal["auto", "pyav", "decord"]
Region = Literal["right-hand", "left-hand", "face", "mouth", "upper-body"]
Part = Literal["body", "right-hand", "left-hand", "face", "mouth"]


class BoxSpec(StrictModel):
    """How the square around a region follows a clip's pose."""

    scale: Annotated[float, Field(gt=0, le=100)] = 1.5
    """Side of the square in multiples of the region's extent."""
    smooth: Annotated[int, Field(ge=1, le=999)] = 5
    """Frames over which the square's centre is averaged, an odd number; 1 is none but its own."""
    confidence: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Least confidence of a point that counts. A region is visible where half of its points do."""
    missing: Literal["repeat", "blank"] = "repeat"
    """What is cut from a frame without a visible region: the last box seen, or nothing (black)."""

    @model_validator(mode="after")
    def _smooth_has_a_middle(self) -> BoxSpec:
        if self.smooth % 2 == 0:
            raise ValueError(f"smooth: {self.smooth} frames have no middle; give an odd number")
        return self


class _Network(StrictModel):
    """What streams have that are computed by a network."""

    weights: str
    """``org/name[@revision]`` of a hub, or a folder or file beside the spec."""
    key_map: Mapping[str, str] = {}
    """How names of tensors begin in the weights -> how they begin in the network; empty if equal.
    The longest beginning counts, tensors that have none of them are left out."""

    def __hash__(self) -> int:
        # A mapping has no hash of its own.
        return hash(self.model_dump_json())


class _Frames(_Network):
    """A network that may be shown a region of each frame in place of the whole."""

    region: Region | None = None
    """What is cut out of each frame, by the clip's pose; None is the whole frame."""
    box: BoxSpec = BoxSpec()
    """Of the region."""

    @property
    def uses_poses(self) -> bool:
        """Whether a clip's pose is an input."""
        return self.region is not None

    @model_validator(mode="after")
    def _boxes_are_of_regions(self) -> Self:
        if self.region is None and self.box != BoxSpec():
            raise ValueError("box: without a `region` whole frames are shown; name one")
        return self


class SpatialStream(_Frames):
    """One row per ``stride`` frames: an image encoder with S2 scaling (paper section 3.1)."""

    encoder: Literal["open_clip"]
    weights: str
    """As of every stream, or a pretrained tag of open_clip."""
    model: str | None = None
    """open_clip model name; None where the weights' own shape says it (a folder)."""
    scales: tuple[Annotated[int, Field(ge=1, le=8)], ...] = Field((1, 2), min_length=1)
    """Multiples of the encoder's input size; scale s is cut into s x s crops."""
    stride: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    """Frames between two rows; SpaMo takes every frame."""
    layer: int = -1
    """Transformer block whose output is kept; -1 is the last."""
    output: Literal["cls-pre-norm", "cls", "mean", "embedding"] = "cls-pre-norm"

    @property
    def per(self) -> Unit:
        """What a row stands for."""
        return "frame"


class MotionStream(_Network):
    """One row per window of frames: a video encoder (paper section 3.1)."""

    encoder: Literal["videomae"]
    window: Annotated[int, Field(ge=1, le=1 << 12)] = 16
    """Frames per window."""
    stride: Annotated[int, Field(ge=1, le=1 << 20)] = 8
    """Frames between the starts of two windows."""
    phase: Annotated[int, Field(ge=0, le=1 << 12)] = 0
    """Frames before the first window; SpaMo begins with the clip. In a clip shorter than both
    together the window ends with the clip."""
    layer: int = -1
    """Index into the hidden states; -1 is the last one, before the final layer norm."""
    token: Literal[0, "mean"] = 0
    tail: Literal["drop", "pad"] = "drop"
    """What becomes of frames after the last full window: dropped, or padded with the last frame."""

    @property
    def per(self) -> Unit:
        """What a row stands for."""
        return "window"

    @property
    def uses_poses(self) -> bool:
        """Whether a clip's pose is an input."""
        return False


class TransformersStream(_Frames):
    """One row per frame or per window: any vision network of transformers' ``AutoModel``."""

    encoder: Literal["transformers"]
    output: Literal["cls", "mean", "pooler"]
    """Class token, mean of the patch tokens, or what the network's own pooler makes of them."""
    window: Annotated[int, Field(ge=1, le=1 << 12)] | None = None
    """Frames per window of a video network; None for an image network, a row per frame."""
    stride: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    """Frames between two rows."""
    layer: int | None = None
    """Index into the hidden states; None is the network's last, after its final layer norm."""
    tail: Literal["drop", "pad"] = "drop"
    """As in :class:`MotionStream`."""

    @property
    def per(self) -> Unit:
        """What a row stands for."""
        return "frame" if self.window is None else "window"

    @model_validator(mode="after")
    def _pooler_has_one_layer(self) -> TransformersStream:
        if self.output == "pooler" and self.layer is not None:
            raise ValueError("output: pooler is made of the last hidden state; leave `layer` out")
        return self

    @model_validator(mode="after")
    def _regions_are_of_frames(self) -> TransformersStream:
        if self.region is not None and self.window is not None:
            raise ValueError("region: windows are shown as whole frames; leave `window` out")
        return self


class PoseStream(StrictModel):
    """One row per ``stride`` frames: points of the clip's pose, without any network."""

    encoder: Literal["pose"]
    points: tuple[Part, ...] = Field(
        ("body", "right-hand", "left-hand", "face", "mouth"), min_length=1
    )
    """Parts of a pose, in the order in which they stand in a row; three values for each point."""
    stride: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    """Frames between two rows."""

    @property
    def per(self) -> Unit:
        """What a row stands for."""
        return "frame"

    @property
    def weights(self) -> str:
        """None: a row is what the pose says."""
        return ""

    @property
    def uses_poses(self) -> bool:
        """Whether a clip's pose is an input."""
        return True

    @model_validator(mode="after")
    def _points_are_named_once(self) -> PoseStream:
        if len(set(self.points)) < len(self.points):
            raise ValueError("points: a part is named twice")
        return self


NetworkStream = SpatialStream | MotionStream | TransformersStream
StreamSpec = Annotated[NetworkStream | PoseStream, Field(discriminator="encoder")]


class FramesSpec(StrictModel):
    """How a decoded frame becomes the encoder's input."""

    resize: Literal["torchvision-uint8", "pil"] = "torchvision-uint8"
    reader: Reader = "auto"
    """What decodes video files. All give the same frames, so it is no part of a fingerprint."""


class RowsSpec(StrictModel):
    """Row counts: for streams with a row per frame, and for those with a row per window."""

    frame: Annotated[int, Field(ge=1, le=1 << 28)]
    window: Annotated[int, Field(ge=1, le=1 << 28)]


class StoreSpec(StrictModel):
    """How features lie in Zarr."""

    dtype: Literal["float16", "float32"] = "float16"
    chunk_rows: RowsSpec = RowsSpec(frame=32, window=8)
    """Rows of an inner chunk: the unit of checksums; every clip starts on one."""
    shard_rows: RowsSpec = RowsSpec(frame=16_384, window=4_096)
    """Rows of a shard: one partition, one file; a multiple of ``chunk_rows``."""

    @model_validator(mode="after")
    def _shards_are_whole_chunks(self) -> StoreSpec:
        for unit in ("frame", "window"):
            shard, chunk = getattr(self.shard_rows, unit), getattr(self.chunk_rows, unit)
            if shard % chunk:
                raise ValueError(
                    f"shard_rows.{unit} ({shard}) must be a multiple of chunk_rows.{unit} ({chunk})"
                )
        return self


class CacheSpec(StrictModel):
    """Exactly how streams are computed; ``cache_specs/README.md`` has every field and unit."""

    shipped_in = "cache_specs", "spec.yaml"

    name: Name
    streams: Mapping[Name, StreamSpec] = Field(min_length=1)
    poses: Annotated[str, Field(min_length=1)] = "poses"
    """Folder of the clips' poses by id, below the corpus's root or with a path of its own. Like the
    name of weights it is no part of a fingerprint: what the poses say is."""
    frames: FramesSpec = FramesSpec()
    compute: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    store: StoreSpec = StoreSpec()
