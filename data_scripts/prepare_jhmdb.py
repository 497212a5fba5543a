"""JHMDB, split 1, as an action folder (paper Sec. 5.1).

    python data_scripts/prepare_jhmdb.py SOURCE OUT

SOURCE holds the official downloads, unpacked: `Rename_Images/CLASS/VIDEO/00001.png`, `splits/CLASS_test_split1.txt` and
`puppet_mask/CLASS/VIDEO/puppet_mask.mat`; or, instead of the last two, `JHMDB-GT.pkl` (the ground truth of the ACT
detector, whose frames lie in `Frames/`). A person's box is the tight box of the mask. The last frames of some clips
have no mask, and some masks are empty: such frames are dropped and counted. OUT gets every other frame as it is,
annotations.csv and faces.csv. Stop it when you like: the same command goes on.
"""

import sys
from pathlib import Path

import numpy as np
from _common import arguments, check_places, clipped, count_line, is_picture, prepare_actions, run
from _faces import Faces
from _untrusted import BadItem, UserError, load_pickle, read_mat

CLIPS, CLASSES = 928, 21  # Jhuang et al., ICCV 2013, in its introduction


def boxes_of_masks(mask):
    """(H, W, T) -> for each of T frames the tight box of what is not 0, as edges (x0, y0, x1, y1), or None."""
    boxes = []
    for frame in np.moveaxis(mask, 2, 0):  # (H, W)
        ys, xs = np.nonzero(frame)
        boxes.append(
            None
            if len(xs) == 0
            else [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        )
    return boxes


def check_names(clips, where):
    """UserError for a clip that is not (class, video): names become folders in OUT, and may not lead out of it."""
    for clip in clips:
        if len(clip) != 2 or any(
            part in ("", ".", "..") or any(sign in part for sign in "/\\:") for part in clip
        ):
            raise UserError(
                f"{where}: names a video {'/'.join(clip)!r}, which is not CLASS/VIDEO; use the official file"
            )


def read_splits(folder):
    """{(class, video): "train" or "test"} of the files CLASS_test_split1.txt, whose lines are `VIDEO.avi 1|2`."""
    clips = {}
    for path in sorted(folder.glob("*_test_split1.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                video, _, which = line.strip().rpartition(" ")
                if which not in ("1", "2") or not video.strip().endswith(".avi"):
                    raise UserError(
                        f"{path}, line {number}: is {line!r}; it must be VIDEO.avi and 1 (train) or 2 (test)"
                    )
                clips[path.name.removesuffix("_test_split1.txt"), video.strip()[:-4]] = (
                    "train" if which == "1" else "test"
                )
    check_names(clips, folder)
    if not clips:
        raise UserError(
            f"{folder}: holds no CLASS_test_split1.txt; unpack the official splits there"
        )
    return clips


class Masks:
    """Ground truth from the official masks and splits. missing: clips without a mask file."""

    name = "puppet masks"

    def __init__(self, source):
        self.folder, self.clips, self.missing = (
            source / "puppet_mask",
            read_splits(source / "splits"),
            [],
        )

    def boxes(self, clip):
        """(the boxes of each frame from the first on, the (H, W) they are for) of (class, video)."""
        path = self.folder.joinpath(*clip) / "puppet_mask.mat"
        if not path.is_file():
            self.missing.append(f"{'/'.join(clip)}: no puppet_mask.mat")
            return [], None
        mask = read_mat(path, "part_mask")  # (H, W, T); MATLAB drops a last axis of length 1
        mask = mask[:, :, None] if mask.ndim == 2 else mask
        if mask.ndim != 3:
            raise UserError(
                f"{path}: part_mask has the shape {mask.shape}, not height x width x frames; use the official file"
            )
        return [[] if box is None else [box] for box in boxes_of_masks(mask)], mask.shape[:2]


class Tubes:
    """Ground truth from JHMDB-GT.pkl; its numbers are taken as edges, as they stand."""

    name = "JHMDB-GT.pkl"

    def __init__(self, path):
        truth, self.path, self.missing = load_pickle(path), path, []
        try:
            self.tubes, self.sizes, self.frames = (
                truth["gttubes"],
                truth["resolution"],
                truth["nframes"],
            )
            splits = {"train": truth["train_videos"][0], "test": truth["test_videos"][0]}
            self.clips = {
                tuple(video.split("/")): split
                for split, videos in splits.items()
                for video in videos
            }
        except (KeyError, TypeError, IndexError, AttributeError) as problem:
            raise UserError(
                f"{path}: is not the ground truth of JHMDB (it lacks {problem}); use the official file"
            ) from problem
        check_names(self.clips, path)

    def boxes(self, clip):
        """As `Masks.boxes`."""
        video = "/".join(clip)
        try:
            frames = [[] for _ in range(int(self.frames[video]))]
            for tubes in self.tubes[video].values():
                for tube in tubes:
                    for number, *box in np.asarray(tube, float).reshape(-1, 5).tolist():
                        if number < 1:
                            raise IndexError(f"frame {number:g}")
                        frames[int(number) - 1].append(box)
            return frames, tuple(map(int, self.sizes[video]))
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as problem:
            raise UserError(
                f"{self.path}: its entry for {video} is not as in the official file ({problem!r}); "
                "download it again"
            ) from problem


def frames_of(source, truth, counts):
    """The items for `_common.prepare_actions`. counts: a dict that gets what is dropped and what is missing."""
    for clip, split in sorted(truth.clips.items()):
        name = "/".join(clip)
        folder = next(
            (
                path
                for path in (source / "Rename_Images" / name, source / "Frames" / name)
                if path.is_dir()
            ),
            None,
        )
        if folder is None:
            truth.missing.append(f"{name}: no folder of frames")
            continue
        boxes, size = truth.boxes(clip)
        for path in sorted(
            path for path in folder.iterdir() if is_picture(path.name) and path.stem.isdigit()
        ):
            number = int(path.stem)
            if not 1 <= number <= len(boxes):
                counts["beyond"] += (
                    size is not None
                )  # a clip without any mask is counted as missing
            elif not boxes[number - 1]:
                counts["empty"] += 1
            else:

                def people(width, height, action=clip[0], boxes=boxes[number - 1], size=size):
                    if (height, width) != tuple(size):
                        raise BadItem(
                            f"is {width} x {height}, its ground truth is for {size[1]} x {size[0]}"
                        )
                    return [(action, clipped(box, width, height)) for box in boxes]

                file = f"{name}/{path.name}"
                yield file, [file], path, (split, people)


def main(argv=None):
    args = arguments(__doc__, actions=True).parse_args(argv)
    check_places(args.source, args.out)
    if (args.source / "puppet_mask").is_dir():
        truth = Masks(args.source)
    elif (args.source / "JHMDB-GT.pkl").is_file():
        truth = Tubes(args.source / "JHMDB-GT.pkl")
    else:
        raise UserError(
            f"{args.source}: holds neither puppet_mask/ nor JHMDB-GT.pkl; unpack the official files there"
        )
    counts = {"beyond": 0, "empty": 0}
    faces, items = Faces(args), list(frames_of(args.source, truth, counts))
    offered = [(file, path.stat().st_size) for file, _, path, _ in items]
    entries, lost = prepare_actions(args.out, lambda done: items, faces, truth.name, offered)

    clips = {(entry["split"], *Path(entry["file"]).parts[:2]) for entry in entries}
    print(count_line("clips", len(clips), CLIPS))
    print(count_line("classes", len({clip[1] for clip in clips}), CLASSES))
    print(count_line("frames", len(entries)))
    for split in ("train", "test"):
        print(
            count_line(
                f"{split} clips of split 1",
                sum(clip[0] == split for clip in clips),
                list(truth.clips.values()).count(split),
            )
        )
    print(count_line("frames with a face", sum(bool(entry["faces"]) for entry in entries)))
    print(
        f"dropped: {counts['beyond']} frames beyond the last mask, {counts['empty']} with an empty mask"
    )
    print(count_line("left out (named above)", lost))
    for line in truth.missing:
        print(f"missing: {line}")


if __name__ == "__main__":
    sys.exit(run(main))
