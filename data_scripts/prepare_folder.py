"""Pictures of your own as a prepared folder: faces of people, or frames with person boxes.

    python data_scripts/prepare_folder.py SOURCE OUT

Faces, when SOURCE has no annotations.csv: a folder or archive PERSON/PICTURE, any names; a fifth of
the people become the test half. Or train/PERSON/PICTURE and test/PERSON/PICTURE, to choose
yourself; pictures beside those are named and left out. The people's folders must lie side by side,
without further folders in them. OUT is what the main job's faces folder is: train/, test/ (renamed
as in LFW), landmarks.csv, and pairs_test.txt drawn here.

Frames, when SOURCE is a folder with an annotations.csv: file, split (train or test), action, x_min,
y_min, x_max, y_max, one row a person; width and height are filled in. OUT gets the pictures,
annotations.csv and faces.csv.

Faces are found by MTCNN, or taken from a table. Stop it when you like: the same command goes on.
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
LEAST = {"train": 2, "test": 1}  # people: D tells several apart; `draw_pairs` needs more of these
FOLDS = 10  # LFW: ten folds of 300 pairs of one person and 300 of two
EACH = 300
PICTURES_A_FOLD = 500  # ours: pairs of more need not be listed to draw 300 of them
PICTURES_A_PERSON = 250  # ours: of these, so that one person does not fill a fold alone


def find_portraits(names):
    """(parts of its path, name) of every PERSON/PICTURE, and {name: why} of pictures left out."""
    found = []
    skipped = {}
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() in UNREAD:
            skipped[name] = "its format is not read; save it as JPEG or PNG"
        elif is_picture(path) and len(path.parts) < 2:
            skipped[name] = "it lies in no folder of a person"
        elif is_picture(path):
            found.append((path.parts, name))
    return found, skipped


def own_half(parts):
    """ "train" or "test" where a path says so, in any letters; None elsewhere.

    DataError where a folder lies between: half of such a SOURCE would be taken for something else.
    """
    *above, half = [part.casefold() for part in parts[:-2]] or [""]
    if half in ("train", "test"):
        return half
    for between in above:
        if between in ("train", "test"):
            raise DataError(
                f"{'/'.join(parts)}: lies deeper than {between}/PERSON/PICTURE; move the people's "
                f"folders into {between}/ itself, and their pictures into these"
            )
    return None


def check_side_by_side(found):
    """DataError unless all people's folders lie in one folder, or in one's train/ and test/.

    Of PERSON/2019/PICTURE the person would be 2019, one and the same of everybody's pictures.
    found: (that folder, as parts of a path; picture) of each.
    """
    places = {}
    for folder, name in found:
        places.setdefault(folder, name)
    if len(places) > 1:
        first, other = list(places.values())[:2]
        raise DataError(
            f"{first} and {other}: the people's folders must lie side by side, with pictures but "
            "no folders in them; arrange SOURCE as PERSON/PICTURE, or as train/PERSON/PICTURE and "
            "test/PERSON/PICTURE"
        )


def split_people(names):
    """(split, person, name) of every PERSON/PICTURE, and {name: why} of pictures left out.

    The split is SOURCE's own train/ and test/, or a fixed fifth is for the test: people are put in
    the order of a hash of their name, which is as good as chance and the same every time.
    """
    found, skipped = find_portraits(names)
    halves = {name: own_half(parts) for parts, name in found}
    own = [(parts, name) for parts, name in found if halves[name]]
    if own:
        check_side_by_side((parts[:-3], name) for parts, name in own)
        for name, half in halves.items():
            if not half:
                skipped[name] = "it lies neither in train/PERSON nor in test/PERSON"
        return [(halves[name], parts[-2], name) for parts, name in own], skipped
    check_side_by_side((parts[:-2], name) for parts, name in found)
    people = sorted(
        {parts[-2] for parts, _ in found},
        key=lambda person: hashlib.sha256(person.encode()).digest(),
    )
    # four at least: two folds of two people; nor fewer than two to train on
    test = set(people[: max(4, round(TEST_SHARE * len(people)))])
    rows = [("test" if parts[-2] in test else "train", parts[-2], name) for parts, name in found]
    return rows, skipped


def check_halves(source, rows):
    """DataError unless there are people in both halves, and nobody in both."""
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
    """{source name: PERSON/PERSON_0001.jpg}.

    The pairs file counts pictures, and separates its words by blanks.
    """
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
    """LFW's kind of pairs file for PERSON/PERSON_0001.jpg.

    As many pairs as the people allow, then as many folds, up to LFW's. No person is in two folds,
    no pair comes twice. DataError when there are too few people or pictures for two folds.
    """
    people = {}
    chance = random.Random(seed)
    for file in sorted(files):
        number = int(PurePosixPath(file).stem.rpartition("_")[2])
        people.setdefault(file.split("/")[0], []).append(number)
    # those with many pictures first, each fold getting one in turn
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
        lines += [f"{a}\t{i}\t{j}" for (a, i), (_, j) in chance.sample(same, each)]
        lines += [f"{a}\t{i}\t{b}\t{j}" for (a, i), (b, j) in chance.sample(different, each)]
    return "\n".join(lines) + "\n"


def pairs_of(pictures):
    """Of how many pairs of one person, and of two, `pictures` (person, number) has both."""
    counts = Counter(person for person, _ in pictures)
    same = sum(count * (count - 1) // 2 for count in counts.values())
    return min(same, len(pictures) * (len(pictures) - 1) // 2 - same)


def half_named(name):
    """The half in whose list a picture that was left out is named."""
    return "test" if "test" in name.casefold().split("/")[:-1] else "train"


def faces_folder(args):
    source = open_source(args.source)
    for name in source.members:
        if PurePosixPath(name).name == "annotations.csv":
            raise DataError(
                f"{args.source}: holds {name}, of frames and not of faces; unpack it if it is an "
                "archive, and give the folder in which that table lies as SOURCE"
            )
    faces = Faces(args)
    rows, skipped = split_people(source.members)
    check_halves(args.source, rows)
    check_names((name, f"{person}/{PurePosixPath(name).name}") for _, person, name in rows)
    renamed = test_names([row for row in rows if row[0] == "test"])
    if rows:
        draw_pairs(renamed.values())  # too few people are found out now, not after hours
    listing = "\n".join(f"{split} {person} {name}" for split, person, name in rows)
    of = f", of the listing {hashlib.sha256(listing.encode()).hexdigest()[:16]}"
    halves = {"train": [], "test": []}
    for split, person, name in rows:  # in the order of an archive, in which reading is quick
        file = renamed[name] if split == "test" else f"{person}/{PurePosixPath(name).name}"
        halves[split].append((name, file))
    faces.check_table(
        known
        for split, pictures in halves.items()
        for picture in pictures
        for known in table_names(split, *picture)
    )
    also = {"train": [], "test": ["pairs_test.txt"]}
    check_half(args.out, "test", halves["test"], also["test"])  # not after hours of train
    for split, pictures in halves.items():
        named = {name: why for name, why in skipped.items() if half_named(name) == split}
        files, lost = prepare_faces(
            args.out, split, source, pictures, faces, of, also[split], named
        )
        if split == "test":
            text = draw_pairs(files)
            write_file(args.out / "pairs_test.txt", text)
            print(count_line("test pairs", text.count("\n") - 1))
        people = len({file.split("/")[0] for file in files})
        print(count_line(f"{split} pictures", len(files), len(pictures)) + f", of {people} people")
        print(count_line("left out (named above)", lost))


def frames(source, table):
    """The items for `_common.prepare_actions`, from the rows of annotations.csv."""
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
    shown = {
        file: SimpleNamespace(split=here[0]["split"], actions=[row["action"] for row in here])
        for file, here in rows.items()
    }
    action_names(table, shown, [frame for frame in shown.values() if frame.split == "train"])
    for file, here in rows.items():
        if len({row["split"] for row in here}) > 1:
            raise DataError(f"{here[-1]['where']}: {file} is in train and in test; choose one")
        yield file, [file], find_picture(source, file), (here[0]["split"], partial(people_of, here))


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
    items = list(frames(args.source, table))  # the whole table is checked before the first picture
    offered = [(file, path.stat().st_size, path) for file, _, path, _ in items if path.is_file()]
    truth = {file: known for file, _, _, known in items}
    how = "boxes of a table"  # each frame's boxes are compared: a corrected table goes on
    entries, lost = prepare_actions(args.out, lambda done: items, Faces(args), how, offered, truth)
    for split in ("train", "test"):
        here = sum(entry["split"] == split for entry in entries)
        print(count_line(f"{split} frames", here, sum(item[3][0] == split for item in items)))
    print(count_line("person boxes", sum(len(entry["people"]) for entry in entries)))
    print(count_line("frames with a face", sum(bool(entry["faces"]) for entry in entries)))
    print(count_line("left out (named above)", lost))


def main(argv=None):
    parser = arguments(__doc__)
    args = parser.parse_args(argv)
    check_places(args.source, args.out, args.landmarks)
    if (args.source / "annotations.csv").is_file():
        args.rule = "mtcnn"  # tells `Faces` that a table holds boxes and need not hold landmarks
        actions_folder(args)
    else:
        faces_folder(args)


if __name__ == "__main__":
    sys.exit(run(main))
