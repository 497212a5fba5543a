"""Make a prepared folder of your own pictures: faces of people, or frames with person boxes.

    python data_scripts/prepare_folder.py SOURCE OUT

Faces: SOURCE is a folder or archive of PERSON/PICTURE, any names, without an annotations.csv. A
fifth of the people become the test half. To choose them yourself, use train/PERSON/PICTURE and
test/PERSON/PICTURE; other pictures are named and left out. The people's folders must lie side by
side, with no folders in them. OUT becomes a faces folder for the main job: train/, test/ (renamed
as in LFW), landmarks.csv, and pairs_test.txt with random pairs.

Frames: SOURCE is a folder with an annotations.csv: file, split (train or test), action, x_min,
y_min, x_max, y_max, one row per person; width and height are added. OUT gets the pictures,
annotations.csv and faces.csv.

MTCNN finds the faces, or a table gives them. Stop it when you like: the same command resumes.
"""

import hashlib
import itertools
import random
import sys
from collections import Counter
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath
from types import SimpleNamespace

from _common import (
    arguments,
    check_half,
    check_names,
    check_places,
    count_line,
    prepare_actions,
    prepare_faces,
    run,
    table_names,
)
from _faces import Faces
from _untrusted import open_source

from ppad.files import (
    BadPicture,
    DataError,
    find_picture,
    is_picture,
    numbers,
    read_table,
    write_file,
)
from ppad.folders import BOX_COLUMNS, action_names, check_convention, checked_boxes, spelling

UNREAD = ".jfif .jpe .gif .tif .tiff .heic .heif .avif .jp2 .jxl .ppm .pgm .dng .cr2 .nef".split()
TEST_SHARE = 0.2  # ours: of the people
LEAST = {"train": 2, "test": 1}  # people: D must tell some apart; `draw_pairs` needs more for test
FOLDS = 10  # LFW: ten folds, each 300 pairs of one person and 300 of two
EACH = 300
PICTURES_A_FOLD = 500  # ours: enough to draw 300 pairs without listing all
PICTURES_A_PERSON = 250  # ours: in a fold, so that one person cannot fill it


def find_portraits(names):
    """(path parts, name) of every PERSON/PICTURE, and {name: reason} of pictures left out."""
    paths = []
    skipped = {}
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() in UNREAD:
            skipped[name] = "its format is not read; save it as JPEG or PNG"
        elif is_picture(path) and len(path.parts) < 2:
            skipped[name] = "it lies in no folder of a person"
        elif is_picture(path):
            paths.append((path.parts, name))
    return paths, skipped


def own_half(parts):
    """The half, "train" or "test", that a path names (in any case); None if it names neither.

    DataError if a folder lies between the half and the person.
    """
    *above, half = [part.casefold() for part in parts[:-2]] or [""]
    if half in ("train", "test"):
        return half
    for folder in above:
        if folder in ("train", "test"):
            raise DataError(
                f"{'/'.join(parts)}: lies deeper than {folder}/PERSON/PICTURE; move the people's "
                f"folders directly into {folder}/, and their pictures directly into these"
            )
    return None


def check_side_by_side(pictures):
    """DataError unless all people's folders lie in one folder, or in its train/ and test/.

    In PERSON/2019/PICTURE the person would be 2019, the same for everybody's pictures.
    pictures: (path parts of the folder that holds the person's folder, name) of each.
    """
    folders = {}
    for folder, name in pictures:
        folders.setdefault(folder, name)
    if len(folders) > 1:
        first, other = list(folders.values())[:2]
        raise DataError(
            f"{first} and {other}: the people's folders must lie side by side, with pictures but "
            "no folders in them; arrange SOURCE as PERSON/PICTURE, or as train/PERSON/PICTURE and "
            "test/PERSON/PICTURE"
        )


def split_people(names):
    """(split, person, name) of every PERSON/PICTURE, and {name: reason} of pictures left out.

    The split is SOURCE's own train/ and test/. Without these a fifth of the people is for the test:
    the first by a hash of their names, a choice that is as good as random but never changes.
    """
    paths, skipped = find_portraits(names)
    halves = {name: own_half(parts) for parts, name in paths}
    assigned = [(parts, name) for parts, name in paths if halves[name]]
    if assigned:
        check_side_by_side((parts[:-3], name) for parts, name in assigned)
        for name, half in halves.items():
            if not half:
                skipped[name] = "it lies neither in train/PERSON nor in test/PERSON"
        return [(halves[name], parts[-2], name) for parts, name in assigned], skipped
    check_side_by_side((parts[:-2], name) for parts, name in paths)
    people = sorted(
        {parts[-2] for parts, _ in paths},
        key=lambda person: hashlib.sha256(person.encode()).digest(),
    )
    # at least four: two folds of two people
    test = set(people[: max(4, round(TEST_SHARE * len(people)))])
    rows = [("test" if parts[-2] in test else "train", parts[-2], name) for parts, name in paths]
    return rows, skipped


def check_halves(source, rows):
    """DataError if a half has too few people, or anybody is in both halves."""
    halves = {"train": {}, "test": {}}
    for split, person, _ in rows:
        halves[split][spelling(person)] = person
    for split, other in (("train", "test"), ("test", "train")):
        if rows and len(halves[split]) < LEAST[split]:
            raise DataError(
                f"{source}: has {len(halves[split])} people for the {split} half, which needs "
                f"{LEAST[split]}, and {len(halves[other])} for {other}; add people (six at least), "
                "or give the folder of the people as SOURCE"
            )
    train, test = halves.values()
    if both := sorted(set(train) & set(test)):
        key = both[0]
        also = "" if train[key] == test[key] else f"as {test[key]!r} "
        raise DataError(
            f"{train[key]!r} is in train and {also}in test; nobody may be in both: "
            "rename or move one of the folders"
        )


def test_names(rows):
    """{source name: PERSON/PERSON_0001.jpg}: pairs files number pictures and split at blanks."""
    names = {}
    count = {}
    persons = {}
    for _, person, name in sorted(rows, key=lambda row: row[1:]):
        plain = "_".join(person.split())
        if persons.setdefault(plain, person) != person:
            raise DataError(
                f"test people {person!r} and {persons[plain]!r} would get one name; "
                "rename one of the folders"
            )
        count[plain] = count.get(plain, 0) + 1
        names[name] = f"{plain}/{plain}_{count[plain]:04d}{PurePosixPath(name).suffix.lower()}"
    return names


def draw_pairs(files, seed=0):
    """The text of a pairs file in LFW's format, for files PERSON/PERSON_0001.jpg.

    It has as many pairs as possible, then as many folds, up to LFW's numbers. No person is in two
    folds, no pair repeats. DataError if there are too few people or pictures for two folds.
    """
    people = {}
    rng = random.Random(seed)
    for file in sorted(files):
        number = int(PurePosixPath(file).stem.rpartition("_")[2])
        people.setdefault(file.split("/")[0], []).append(number)
    # people with many pictures first: each fold gets one person in turn
    order = sorted(people, key=lambda person: (-len(people[person]), person))
    rich = sum(len(numbers) > 1 for numbers in people.values())
    best = []
    for count in range(2, min(FOLDS, rich, len(people) // 2) + 1):
        folds = [
            [
                (person, number)
                for person in order[fold::count]
                for number in people[person][:PICTURES_A_PERSON]
            ][:PICTURES_A_FOLD]
            for fold in range(count)
        ]
        each = min(EACH, *map(pairs_of, folds))
        best = max(best, [count * each, count, each, folds])
    if not best or best[0] < 1:
        raise DataError(
            f"the test half has {len(people)} people, {rich} of them with two pictures; two folds "
            "of pairs need at least four people, two of them with two pictures: add people"
        )
    _, count, each, folds = best
    lines = [f"{count}\t{each}"]
    for pictures in folds:
        pairs = list(itertools.combinations(pictures, 2))
        same = [pair for pair in pairs if pair[0][0] == pair[1][0]]
        different = [pair for pair in pairs if pair[0][0] != pair[1][0]]
        lines += [f"{a}\t{i}\t{j}" for (a, i), (_, j) in rng.sample(same, each)]
        lines += [f"{a}\t{i}\t{b}\t{j}" for (a, i), (b, j) in rng.sample(different, each)]
    return "\n".join(lines) + "\n"


def pairs_of(pictures):
    """The smaller of two counts: pairs of one person, pairs of two. pictures: (person, number)."""
    counts = Counter(person for person, _ in pictures)
    same = sum(count * (count - 1) // 2 for count in counts.values())
    return min(same, len(pictures) * (len(pictures) - 1) // 2 - same)


def half_named(name):
    """The half in whose left_out_*.txt a picture is listed."""
    return "test" if "test" in name.casefold().split("/")[:-1] else "train"


def faces_folder(args):
    source = open_source(args.source)
    for name in source.members:
        if PurePosixPath(name).name == "annotations.csv":
            raise DataError(
                f"{args.source}: holds {name}, a table of frames, not of faces; unpack it if it is "
                "an archive, and give the folder that holds this table as SOURCE"
            )
    faces = Faces(args)
    rows, skipped = split_people(source.members)
    check_halves(args.source, rows)
    check_names((name, f"{person}/{PurePosixPath(name).name}") for _, person, name in rows)
    renamed = test_names([row for row in rows if row[0] == "test"])
    if rows:
        draw_pairs(renamed.values())  # raises DataError now, not after hours
    listing = "\n".join(f"{split} {person} {name}" for split, person, name in rows)
    listing = f", of the listing {hashlib.sha256(listing.encode()).hexdigest()[:16]}"
    halves = {"train": [], "test": []}
    for split, person, name in rows:  # in an archive's order, the fastest to read
        file = renamed[name] if split == "test" else f"{person}/{PurePosixPath(name).name}"
        halves[split].append((name, file))
    faces.check_table(
        name
        for split, pictures in halves.items()
        for picture in pictures
        for name in table_names(split, *picture)
    )
    also = {"train": [], "test": ["pairs_test.txt"]}
    check_half(args.out, "test", halves["test"], also["test"])  # now, not after hours of train
    for split, pictures in halves.items():
        skips = {name: why for name, why in skipped.items() if half_named(name) == split}
        files, lost = prepare_faces(
            args.out, split, source, pictures, faces, listing, also[split], skips
        )
        if split == "test":
            text = draw_pairs(files)
            write_file(args.out / "pairs_test.txt", text)
            print(count_line("test pairs", text.count("\n") - 1))
        people = len({file.split("/")[0] for file in files})
        print(count_line(f"{split} pictures", len(files), len(pictures)) + f", of {people} people")
        print(count_line("left out (named above)", lost))


def frames(source, table):
    """Yield the items for `_common.prepare_actions` from annotations.csv."""
    rows = {}
    listed = read_table(table, ("file", "split", "action", *BOX_COLUMNS))
    check_convention(table, listed)
    for row in listed:
        path = PurePosixPath(row["file"])
        drive = PureWindowsPath(row["file"]).drive
        leads_out = path.is_absolute() or ".." in path.parts or drive
        if leads_out or not is_picture(row["file"]):
            raise DataError(
                f"{row['where']}: file is {row['file']!r}; it must be a picture below SOURCE"
            )
        if row["split"] not in ("train", "test") or not row["action"]:
            raise DataError(
                f"{row['where']}: split is {row['split']!r} and action {row['action']!r}; "
                "give train or test, and a name"
            )
        rows.setdefault(row["file"], []).append(row)
    labels = {
        file: SimpleNamespace(split=group[0]["split"], actions=[row["action"] for row in group])
        for file, group in rows.items()
    }
    action_names(table, labels, [label for label in labels.values() if label.split == "train"])
    for file, group in rows.items():
        split = group[0]["split"]
        if len({row["split"] for row in group}) > 1:
            raise DataError(f"{group[-1]['where']}: {file} is in train and in test; choose one")
        yield file, [file], find_picture(source, file), (split, partial(people_of, group))


def people_of(rows, width, height):
    people = []
    for row in rows:
        if row.get("width") and numbers(row, ("width", "height")) != [width, height]:
            raise BadPicture(
                f"is {width} x {height}, its row says {row['width']} x {row['height']}"
            )
        box = checked_boxes(numbers(row, BOX_COLUMNS), width, height, f"{row['where']}: box")
        people.append((row["action"], box[0].tolist()))
    return people


def actions_folder(args):
    table = args.source / "annotations.csv"
    items = list(frames(args.source, table))  # list: check the whole table before any picture
    offered = [(file, path.stat().st_size, path) for file, _, path, _ in items if path.is_file()]
    truths = {file: truth for file, _, _, truth in items}
    how = "boxes of a table"  # without a hash: each frame's boxes are compared
    entries, lost = prepare_actions(args.out, lambda done: items, Faces(args), how, offered, truths)
    for split in ("train", "test"):
        count = sum(entry["split"] == split for entry in entries)
        print(count_line(f"{split} frames", count, sum(item[3][0] == split for item in items)))
    print(count_line("person boxes", sum(len(entry["people"]) for entry in entries)))
    print(count_line("frames with a face", sum(bool(entry["faces"]) for entry in entries)))
    print(count_line("left out (named above)", lost))


def main(argv=None):
    parser = arguments(__doc__)
    args = parser.parse_args(argv)
    check_places(args.source, args.out, args.landmarks)
    if (args.source / "annotations.csv").is_file():
        args.rule = "mtcnn"  # tells `Faces` that a table must hold boxes, not landmarks
        actions_folder(args)
    else:
        faces_folder(args)


if __name__ == "__main__":
    sys.exit(run(main))
