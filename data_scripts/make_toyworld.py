"""Write the toy world to disk as prepared folders, like those of real data.

    python data_scripts/make_toyworld.py OUT
    python -m ppad.reproduce --preset photo --faces OUT/faces --actions OUT/actions

The PNG files and tables hold exactly the pictures, landmarks and boxes that the `toy` preset draws
in memory. Use them to test the readers, and your own code for prepared folders, without any real
person. All fields of the preset can be set, as in the main job (--train_identities 12). Nothing is
written outside OUT. After a stop, run the same command again.
"""

import argparse
import dataclasses
import io
import sys
from pathlib import Path

from _common import count_line, run
from _journal import Journal, check_unclaimed, table_text
from PIL import Image

from ppad import config as presets
from ppad.evaluate import load_data
from ppad.files import DataError, write_file
from ppad.folders import BOX_COLUMNS, POINT_COLUMNS

# fields that `load_data` reads; they are fixed for an OUT
DRAWN_BY = (
    "train_identities",
    "pictures_each",
    "test_identities",
    "test_pictures_each",
    "train_frames",
    "test_frames",
    "test_pairs",
    "frame_height",
    "face_size",
    "folds",
)


def write_picture(path, image):
    """Write an image (3, S, S) uint8 as PNG, which is lossless."""
    content = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(content, "PNG")  # (S, S, 3)
    write_file(path, content.getvalue(), durable=False)


def exact(numbers):
    """Numbers as text that reads back as the same numbers."""
    return [repr(float(number)) for number in numbers]


def write_faces(out, halves):
    """halves: {"train": FaceSet, "test": FaceSet}."""
    rows = []
    for split, faces in halves.items():
        for image, points, name in zip(faces.pictures, faces.landmarks, faces.names):
            write_picture(out / split / f"{name}.png", image)
            rows.append([f"{split}/{name}.png", *exact(points.flatten())])
    write_file(out / "landmarks.csv", table_text(["file", *POINT_COLUMNS], rows))


def write_pairs(path, pairs, names):
    """LFW's format: a fold's pairs of one person, then its pairs of two people."""
    folds = int(pairs.folds.max()) + 1
    lines = [f"{folds}\t{len(pairs) // (2 * folds)}"]
    order = sorted(range(len(pairs)), key=lambda i: (pairs.folds[i].item(), not pairs.same[i]))
    for i in order:
        a, _, m = names[pairs.first[i]].split("/")[1].rpartition("_")
        b, _, n = names[pairs.second[i]].split("/")[1].rpartition("_")
        other = [] if pairs.same[i] else [b]
        lines.append("\t".join([a, str(int(m)), *other, str(int(n))]))
    write_file(path, "\n".join(lines) + "\n")


def write_actions(out, halves):
    """halves: {"train": ActionSet, "test": ActionSet}."""
    people = []
    faces = []
    for split, actions in halves.items():
        for i, image in enumerate(actions.pictures):
            file = f"{actions.names[i]}.png"
            size = [image.shape[2], image.shape[1]]
            write_picture(out / file, image)
            people += [
                [file, split, actions.classes[label - 1], *size, *exact(box)]
                for box, label in zip(actions.boxes[i].reshape(-1, 4), actions.labels[i].tolist())
            ]
            faces += [[file, *exact(box)] for box in actions.face_boxes[i].reshape(-1, 4)]
    columns = ["file", "split", "action", "width", "height", *BOX_COLUMNS]
    write_file(out / "annotations.csv", table_text(columns, people))
    write_file(out / "faces.csv", table_text(["file", *BOX_COLUMNS], faces))


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--seed", type=int, default=0)
    presets.add_fields(parser)
    args = parser.parse_args(argv)
    try:
        names = [field.name for field in dataclasses.fields(presets.Paper)]
        config = presets.build("toy", **{name: getattr(args, name) for name in names})
    except presets.ConfigError as error:
        raise DataError(str(error)) from error
    if not config.drawn:
        raise DataError(
            "faces and actions are given; the toy world reads no pictures: leave them out"
        )
    settings = [f"{name} {getattr(config, name)}" for name in DRAWN_BY]
    tables = [f"faces/{name}" for name in ("landmarks.csv", "pairs_test.txt")]
    tables += [f"actions/{name}" for name in ("annotations.csv", "faces.csv")]
    check_unclaimed(args.out, ["toyworld"], tables)
    # refuses an OUT that other settings drew
    Journal(args.out, "toyworld", ", ".join([f"seed {args.seed}", *settings]))
    data = load_data(config, args.seed)
    write_faces(args.out / "faces", {"train": data.faces, "test": data.test_faces})
    write_pairs(args.out / "faces" / "pairs_test.txt", data.pairs, data.test_faces.names)
    write_actions(args.out / "actions", {"train": data.actions, "test": data.test_actions})
    for name, dataset in (
        ("train faces", data.faces),
        ("test faces", data.test_faces),
        ("pairs", data.pairs),
        ("train frames", data.actions),
        ("test frames", data.test_actions),
    ):
        print(count_line(name, len(dataset)))


if __name__ == "__main__":
    sys.exit(run(main))
