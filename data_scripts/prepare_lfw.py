"""Make the test half of a face folder from LFW, Labeled Faces in the Wild (paper Sec. 5.1).

    python data_scripts/prepare_lfw.py SOURCE OUT

SOURCE: the folder PERSON/PERSON_0001.jpg (or one that holds it, such as the official download's),
or its .tgz or .zip. The script looks for the official pairs.txt in SOURCE and beside it, unless
--pairs names it. OUT gets test/, pairs_test.txt and the test rows of landmarks.csv: box and five
points of each main face (`_faces.main_face`), found by our MTCNN. A script that makes train/ may
share OUT. Pictures without a face are left out and named, and so are missing pictures that pairs
need; the reader drops such pairs. Stop it when you like: the same command resumes.

At the end it writes mean_face.png, the mean face aligned in three ways (by landmarks, by boxes, and
not at all), and prepared.json: counts, total time of all calls, and the sharpness of the three
means. Wrong landmarks would blur the first.
"""

import io
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from _common import arguments, check_places, count_line, prepare_faces, run, table_names
from _faces import Faces
from _untrusted import open_source
from PIL import Image

from ppad import optim
from ppad.crop_sampler import align_faces
from ppad.files import (
    DataError,
    is_picture,
    numbers,
    open_picture,
    read_pair_lines,
    read_table,
    write_file,
)
from ppad.folders import BOX_COLUMNS, POINT_COLUMNS, cores

PICTURES = 13_233  # all three counts: the set's page
PEOPLE = 5_749
PAIRS = 6_000
CROP = 112, 96  # SphereFace: height and width of D's aligned crops
TIMES = "minutes", "cpu_minutes"  # in prepared.json
WRITTEN = "pairs_test.txt", "mean_face.png", "prepared.json"  # to OUT, apart from the half
# ours: rows and columns of a crop that contain eyes, nose and mouth
FEATURES = (slice(40, 104), slice(20, 76))


def find_pairs(source, given):
    """The path of pairs.txt: as given, or in SOURCE, or beside it."""
    source = source.absolute()  # "." has no parent
    places = [given] if given else [source / "pairs.txt", source.parent / "pairs.txt"]
    for path in places:
        if path.is_file():
            return path
    raise DataError(
        f"no pairs.txt at {' or '.join(map(str, places))}; "
        "download it from LFW's page and name it with --pairs"
    )


def portraits(source):
    """(name in SOURCE, PERSON/PICTURE) of every picture; folders above PERSON are ignored."""
    for name in source.members:
        parts = PurePosixPath(name).parts
        if len(parts) >= 2 and is_picture(name):
            yield name, "/".join(parts[-2:])


def mean_faces(out):
    """Means of all test faces as D's crops, (112, 96, 3) RGB in 0..255, aligned in three ways.

    "landmarks": by each face's own five points, as D aligns it. "boxes": by the points' mean places
    in a face box, as a crop without landmarks would be. "pictures": by the same points in all
    pictures, which shows how LFW itself places faces.
    """
    rows = read_table(out / "landmarks.csv", ("file", *BOX_COLUMNS, *POINT_COLUMNS))
    # without train rows of another script
    rows = [row for row in rows if row["file"].startswith("test/")]
    points = torch.tensor([numbers(row, POINT_COLUMNS) for row in rows])
    points = points.view(-1, 5, 2)  # (N, 5, 2) px
    corners = torch.tensor([numbers(row, BOX_COLUMNS) for row in rows])
    corners = corners.view(-1, 2, 1, 2)  # (N, 2, 1, 2) px
    first = corners[:, 0]  # (N, 1, 2)
    side = corners[:, 1] - first  # (N, 1, 2)
    usual = first + side * ((points - first) / side).mean(dim=0)  # (N, 5, 2)
    same = points.mean(dim=0).expand_as(points)  # (N, 5, 2)
    sets = torch.stack([points, usual, same], dim=1)  # (N, 3, 5, 2)

    items = [(out / row["file"], points) for row, points in zip(rows, sets)]
    with ThreadPoolExecutor(cores()) as pool:
        mean = sum(pool.map(aligned, items)) / len(items)  # (3, 3, 112, 96)
    means = ((mean + 1) * 127.5).permute(0, 2, 3, 1).numpy()  # (3, 112, 96, 3)
    return dict(zip(("landmarks", "boxes", "pictures"), means))


def aligned(item):
    """One picture aligned by three sets of landmarks: (3, 3, 112, 96) in [-1, 1]."""
    path, points = item
    pixels = torch.tensor(np.asarray(open_picture(path))).permute(2, 0, 1)  # (3, H, W)
    pictures = (pixels / 127.5 - 1).expand(3, -1, -1, -1)
    return align_faces(pictures, points, CROP).double()


def sharpness(picture):
    """Mean magnitude of the brightness gradient around eyes, nose and mouth, per pixel.

    picture: (112, 96, 3), aligned, in 0..255.
    """
    return float(np.hypot(*np.gradient(picture[FEATURES].mean(axis=2))).mean())


def times(began, report):
    """TIMES of this call, and their sums with the earlier calls' times in the file `report`.

    began: both clocks at the start, in seconds.
    """
    this = {
        name: (now - then) / 60
        for name, now, then in zip(TIMES, (time.monotonic(), time.process_time()), began)
    }
    try:
        before = json.loads(report.read_bytes())
        return this, {name: value + before.get(name, 0) for name, value in this.items()}
    except (OSError, ValueError, AttributeError, TypeError):  # no readable report
        return this, this


def main(argv=None):
    began = time.monotonic(), time.process_time()
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="LFW's pairs.txt")
    args = parser.parse_args(argv)
    check_places(args.source, args.out, args.landmarks, args.pairs)
    pairs_file = find_pairs(args.source, args.pairs)
    pairs = read_pair_lines(pairs_file)
    faces = Faces(args)
    source = open_source(args.source)
    pictures = list(portraits(source))
    faces.check_table(name for picture in pictures for name in table_names("test", *picture))
    report = args.out / "prepared.json"
    try:
        files, lost = prepare_faces(args.out, "test", source, pictures, faces, also=WRITTEN)
    except KeyboardInterrupt:  # counts are not known yet
        if (args.out / ".test.jsonl").exists():  # else OUT may not be ours
            write_file(report, json.dumps(times(began, report)[1], indent=1) + "\n")
        raise
    write_file(args.out / "pairs_test.txt", pairs_file.read_bytes())

    have = {PurePosixPath(file).stem for file in files}
    stems = [{PurePosixPath(name).name for name in pair[:2]} for pair in pairs]
    needed = set().union(*stems)
    usable = sum(pair <= have for pair in stems)
    people = len({file.split("/")[0] for file in files})
    print(count_line("pictures", len(files), PICTURES))
    print(count_line("people", people, PEOPLE))
    print(count_line("pairs", usable, PAIRS))
    print(count_line("left out (named above)", lost))
    if missing := sorted(needed - have):
        names = ", ".join(missing[:20]) + (", ..." if len(missing) > 20 else "")
        print(f"{len(missing)} pictures that pairs need are not here: {names}")

    this_call, all_calls = times(began, report)
    means = mean_faces(args.out)
    sharp = {name: round(sharpness(mean), 3) for name, mean in means.items()}
    row = Image.fromarray(np.hstack(list(means.values())).round().astype(np.uint8))
    row = row.resize((2 * row.width, 2 * row.height), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    row.save(content, "PNG")
    write_file(args.out / "mean_face.png", content.getvalue())
    counts = {
        "pictures": len(files),
        "people": people,
        "pairs": usable,
        "left_out": lost,
    }
    facts = {
        **counts,
        **all_calls,
        "threads": cores(),
        "sharpness": sharp,
        "hardware": optim.hardware(args.device),
        "versions": optim.versions(),
    }
    write_file(report, json.dumps(facts, indent=1) + "\n")
    text = ", ".join(f"{name} {value:.2f}" for name, value in sharp.items())
    print(
        f"this call took {this_call['minutes']:.1f} minutes, "
        f"{this_call['cpu_minutes']:.1f} of processor time"
    )
    print(f"sharpness of the mean face, aligned by: {text} (mean_face.png)")


if __name__ == "__main__":
    sys.exit(run(main))
