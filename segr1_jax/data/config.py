"""Configuration of the sources of training and evaluation samples, and of their loading."""

from dataclasses import dataclass
from typing import Literal, get_args

from segr1_jax.common.config_fields import knob, require_range

Level = Literal["bright", "salient", "camouflaged"]
LEVELS = get_args(Level)


@dataclass(frozen=True)
class LoaderConfig:
    """Loading of samples ahead of the step, in each process."""

    threads: int = knob(2, "threads that read files and build prompts")
    ahead_mb: int = knob(
        2048,
        "budget in MB for samples that are loaded ahead, estimated from the largest image of the "
        "set; at most two batches",
    )

    def __post_init__(self):
        require_range("loader.threads", self.threads, 1)
        require_range("loader.ahead_mb", self.ahead_mb, 1)


@dataclass(frozen=True)
class DataConfig:
    """One source of (image, mask, optional sentence)."""

    kind: Literal["folder", "jsonl", "hub", "published", "synthetic"] = knob(
        "synthetic",
        "folder (images/ and masks/ paired by file stem), jsonl (manifest of image, mask, "
        "instruction, answer), hub (rows with pictures in columns), published or synthetic",
    )
    images: str = knob("", "folder: directory of images", path=True)
    masks: str = knob(
        "", "folder: directory of masks, same file stems, any image suffix", path=True
    )
    ids: str = knob(
        "",
        "folder, published: text file with one file stem, or sample name, per line; "
        "empty = every sample",
        path=True,
    )
    part: Literal["all", "train", "held_out"] = knob(
        "all",
        "all samples, only those that hold_out sets aside (held_out), or only the others (train)",
    )
    hold_out: float = knob(
        0.0,
        "share of the images that is set aside, with all their sentences; set it to the same "
        "value in data and eval_data",
    )
    hold_out_seed: int = knob(0, "seed of the random choice of hold_out")
    manifest: str = knob("", "jsonl: manifest file; paths inside are relative to it", path=True)
    answer_side: int = knob(
        0,
        "jsonl, fcot: side in pixels of the square frame of given answers (images stretched to "
        "it); 0 = pixels of the image itself",
    )
    path: str = knob(
        "",
        "hub: ORG/NAME[@revision] of a data set on the Hugging Face Hub, a parquet file, a folder "
        "of files that `datasets` loads, or one that its save_to_disk wrote",
        path=True,
    )
    subset: str = knob("", "hub: configuration of the data set; empty = its default one")
    image_column: str = knob("image", "hub: column of the images")
    mask_column: str = knob("mask", "hub: column of the masks")
    sentence_column: str = knob(
        "", "hub: column of the sentence that selects the object; empty = no sentences"
    )
    root: str = knob(
        "",
        "published: the folder that holds all data sets in their official layouts "
        "(`segr1 data check ROOT`)",
        path=True,
    )
    set: str = knob("", "published: which set, such as refcoco_plus; cod10k+camo joins two")
    split: str = knob(
        "test", "published, hub: which split of it; a single file or table has no splits"
    )
    level: Level = knob("bright", "synthetic: difficulty, one of bright, salient, camouflaged")
    size: int = knob(168, "synthetic: image side in pixels")
    count: int = knob(4096, "synthetic: number of images")
    max_objects: int = knob(1, "synthetic: 1 to 3 objects per image")
    sentences: bool = knob(False, "synthetic: give each sample a sentence that selects one object")
    seed: int = knob(0, "synthetic: seed of the set; sets of different seeds are disjoint")

    def __post_init__(self):
        if self.part != "all":
            require_range("data.hold_out", self.hold_out, 1e-6, 0.5)
        require_range("data.max_objects", self.max_objects, 1, 3)
        require_range("data.count", self.count, 1)
        require_range("data.answer_side", self.answer_side, 0)
        require_range("data.size", self.size, 28)
