"""Make an action folder of JHMDB, split 1 (paper Sec. 5.1).

    python data_scripts/prepare_jhmdb.py SOURCE OUT

SOURCE holds the official downloads, unpacked: `Rename_Images/CLASS/VIDEO/00001.png`,
`splits/CLASS_test_split1.txt` and `puppet_mask/CLASS/VIDEO/puppet_mask.mat`; or, instead of the
last two, `JHMDB-GT.pkl` (the ground truth of the ACT detector, whose frames lie in `Frames/`). A
person's box is the mask's bounding box. The last frames of some clips have no mask, and some masks
are empty: such frames are dropped and counted. All other frames are copied to OUT, which also gets
annotations.csv and faces.csv. Stop it when you like: the same command resumes.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
from _common import arguments, check_places, clipped, count_line, prepare_actions, run
from _faces import Faces
from _untrusted import load_pickle, read_mat

from ppad.files import BadPicture, DataError, is_hidden, is_picture, read_text

CLIPS = 928  # both counts: introduction of Jhuang et al., ICCV 2013
CLASSES = 21


def boxes_of_masks(mask):
    """The bounding box [x0, y0, x1, y1] of each frame of an (H, W, T) mask; None if all is 0."""
    boxes = []
    for frame in np.moveaxis(mask, 2, 0):  # (H, W)
        ys, xs = np.nonzero(frame)
        box = None
        if len(xs):
            box = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        boxes.append(box)
    return boxes


def check_names(clips, where):
    """DataError for a clip that is not (class, video): names become folders, inside OUT only."""
    for clip in clips:
        unsafe = [part for part in clip if part in ("", ".", "..") or set(part) & set("/\\:")]
        if len(clip) != 2 or unsafe:
            raise DataError(
                f"{where}: names a video {'/'.join(clip)!r}, which is not CLASS/VIDEO; "
                "use the official file"
            )


def read_splits(folder):
    """{(class, video): "train" or "test"}, from lines `VIDEO.avi 1|2` of CLASS_test_split1.txt."""
    clips = {}
    paths = sorted(folder.glob("*_test_split1.txt"))
    for path in [path for path in paths if not is_hidden(path)]:
        action = path.name.removesuffix("_test_split1.txt")
        for number, line in enumerate(read_text(path).splitlines(), 1):
            if not line.strip():
                continue
            video, _, split = line.strip().rpartition(" ")
            if split not in ("1", "2") or not video.strip().endswith(".avi"):
                raise DataError(
                    f"{path}, line {number}: is {line!r}; "
                    "it must be VIDEO.avi and 1 (train) or 2 (test)"
                )
            clips[action, video.strip()[:-4]] = "train" if split == "1" else "test"
    check_names(clips, folder)
    if not clips:
        raise DataError(
            f"{folder}: holds no CLASS_test_split1.txt; unpack the official splits there"
        )
    return clips


class Masks:
    """Ground truth from the official masks and splits. missing: messages for the final report."""

    name = "puppet masks"

    def __init__(self, source):
        self.folder = source / "puppet_mask"
        self.clips = read_splits(source / "splits")
        self.missing = []

    def boxes(self, clip):
        """The boxes of each frame of a clip (class, video), and the frames' (H, W) or None."""
        path = self.folder.joinpath(*clip) / "puppet_mask.mat"
        if not path.is_file():
            self.missing.append(f"{'/'.join(clip)}: no puppet_mask.mat")
            return [], None
        mask = read_mat(path, "part_mask")  # (H, W, T); MATLAB drops a last axis of length 1
        mask = mask[:, :, None] if mask.ndim == 2 else mask
        if mask.ndim != 3:
            raise DataError(
                f"{path}: part_mask has the shape {mask.shape}, not height x width x frames; "
                "use the official file"
            )
        return [[] if box is None else [box] for box in boxes_of_masks(mask)], mask.shape[:2]


class Tubes:
    """Ground truth from JHMDB-GT.pkl; its numbers are used unchanged, as edges."""

    name = "JHMDB-GT.pkl"

    def __init__(self, path):
        truth = load_pickle(path)
        self.path = path
        self.missing = []
        try:
            self.tubes = truth["gttubes"]
            self.sizes = truth["resolution"]
            self.frames = truth["nframes"]
            splits = {"train": truth["train_videos"][0], "test": truth["test_videos"][0]}
            self.clips = {
                tuple(video.split("/")): split
                for split, videos in splits.items()
                for video in videos
            }
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise DataError(
                f"{path}: is not the ground truth of JHMDB (it lacks {error}); "
                "use the official file"
            ) from error
        check_names(self.clips, path)

    def boxes(self, clip):
        """See `Masks.boxes`."""
        video = "/".join(clip)
        try:
            frames = [[] for _ in range(int(self.frames[video]))]
            for tubes in self.tubes[video].values():
                for tube in tubes:
                    for number, *box in np.asarray(tube, float).reshape(-1, 5).tolist():
                        if number < 1:
                            raise IndexError(f"frame {number:g}, where frames count from 1")
                        frames[int(number) - 1].append(box)
            return frames, tuple(map(int, self.sizes[video]))
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise DataError(
                f"{self.path}: its entry for {video} is not as in the official file ({error!r}); "
                "download it again"
            ) from error


def frames_of(source, truth, counts):
    """Yield the items for `_common.prepare_actions`.

    counts: the dropped frames, "beyond" the last mask and with an "empty" mask, are added to it.
    """
    for clip, split in sorted(truth.clips.items()):
        name = "/".join(clip)
        folders = [source / "Rename_Images" / name, source / "Frames" / name]
        folder = next((path for path in folders if path.is_dir()), None)
        if folder is None:
            truth.missing.append(f"{name}: no folder of frames")
            continue
        boxes, size = truth.boxes(clip)
        paths = [path for path in folder.iterdir() if is_picture(path) and path.stem.isdigit()]
        if any(int(path.stem) == 0 for path in paths):
            raise DataError(
                f"{folder}: its frames are numbered from 0, the official ones from 00001; "
                "rename them, or every frame would get the previous frame's box"
            )
        pictures = by_number(sorted(paths))
        boxed = [number for number, box in enumerate(boxes, 1) if box]
        if missing := [number for number in boxed if number not in pictures]:
            truth.missing.append(f"{name}: no frame {', '.join(map(str, missing))}")
        for number, path in pictures.items():
            if not 1 <= number <= len(boxes):
                # a clip without any mask is in `missing`
                counts["beyond"] += size is not None
            elif not boxes[number - 1]:
                counts["empty"] += 1
            else:
                file = f"{name}/{path.name}"
                people = partial(people_of, clip[0], boxes[number - 1], size)
                yield file, [file], path, (split, people)


def by_number(paths):
    """{frame number: path}; DataError if two pictures have one number."""
    pictures = {}
    for path in paths:
        other = pictures.setdefault(int(path.stem), path)
        if other != path:
            raise DataError(f"{other} and {path.name} have the same number; delete one of them")
    return pictures


def people_of(action, boxes, size, width, height):
    if (height, width) != tuple(size):
        raise BadPicture(f"is {width} x {height}, its ground truth is for {size[1]} x {size[0]}")
    return [(action, clipped(box, width, height)) for box in boxes]


def main(argv=None):
    args = arguments(__doc__, actions=True).parse_args(argv)
    check_places(args.source, args.out, args.landmarks)
    if (args.source / "puppet_mask").is_dir():
        truth = Masks(args.source)
    elif (args.source / "JHMDB-GT.pkl").is_file():
        truth = Tubes(args.source / "JHMDB-GT.pkl")
    else:
        raise DataError(
            f"{args.source}: holds neither puppet_mask/ nor JHMDB-GT.pkl; "
            "unpack the official files there"
        )
    counts = {"beyond": 0, "empty": 0}
    faces = Faces(args)
    items = list(frames_of(args.source, truth, counts))
    offered = [(file, path.stat().st_size, path) for file, _, path, _ in items]
    labels = {file: label for file, _, _, label in items}
    how = truth.name
    entries, lost = prepare_actions(args.out, lambda done: items, faces, how, offered, labels)

    clips = {(entry["split"], *Path(entry["file"]).parts[:2]) for entry in entries}
    print(count_line("clips", len(clips), CLIPS))
    print(count_line("classes", len({clip[1] for clip in clips}), CLASSES))
    print(count_line("frames", len(entries)))
    for split in ("train", "test"):
        count = sum(clip[0] == split for clip in clips)
        official = list(truth.clips.values()).count(split)
        print(count_line(f"{split} clips of split 1", count, official))
    print(count_line("frames with a face", sum(bool(entry["faces"]) for entry in entries)))
    print(
        f"dropped: {counts['beyond']} frames beyond the last mask, "
        f"{counts['empty']} with an empty mask"
    )
    print(count_line("left out (named above)", lost))
    for line in truth.missing:
        print(f"missing: {line}")


if __name__ == "__main__":
    sys.exit(run(main))
