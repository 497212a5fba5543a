"""LFW, Labeled Faces in the Wild, as the test half of a face folder (paper Sec. 5.1: verification).

    python data_scripts/prepare_lfw.py SOURCE OUT

SOURCE: the folder PERSON/PERSON_0001.jpg (or one that holds it, such as the official download's), or its .tgz or .zip.
The official pairs.txt is looked for in SOURCE and beside it, unless --pairs names it. OUT gets test/, pairs_test.txt and
the test rows of landmarks.csv, box and five points by our own MTCNN; a script that makes train/ may share the same OUT.
The face is the one a portrait is of, see `_common.main_face`. A picture without a face is named and left out; pairs that
need it are named too, and the reader drops them. Stop it when you like: the same command goes on.
"""
import sys
from pathlib import Path, PurePosixPath

from _common import arguments, check_places, count_line, is_picture, prepare_faces, run, write_file
from _faces import Faces
from _untrusted import UserError, open_source
from ppad.readers import read_pair_lines

PICTURES, PEOPLE, PAIRS = 13_233, 5_749, 6_000           # official: the set's own page


def find_pairs(source, given):
    """pairs.txt: the one given, or in SOURCE, or beside it."""
    places = [given] if given else [source / "pairs.txt", source.parent / "pairs.txt"]
    for path in places:
        if path.is_file():
            return path
    raise UserError(f"no pairs.txt at {' or '.join(map(str, places))}; download it from LFW's page and name it with --pairs")


def portraits(source):
    """(PERSON/PICTURE, names it may have in a table, load) of every picture; what lies further up does not count."""
    for name in source.members:
        parts = PurePosixPath(name).parts
        if len(parts) >= 2 and is_picture(name):
            file = "/".join(parts[-2:])
            yield file, [file, name, f"test/{file}"], lambda name=name: source.read(name)


def main(argv=None):
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="LFW's pairs.txt")
    args = parser.parse_args(argv)
    check_places(args.source, args.out)
    pairs_file = find_pairs(args.source, args.pairs)
    _, pairs = read_pair_lines(pairs_file)
    faces, source = Faces(args), open_source(args.source)
    files, lost = prepare_faces(args.out, "test", portraits(source), faces)
    write_file(args.out / "pairs_test.txt", pairs_file.read_bytes())

    have = {PurePosixPath(file).stem for file in files}
    needed = {f"{person}_{number:04d}" for pair in pairs for person, number in pair}
    broken = [pair for pair in pairs if not all(f"{person}_{number:04d}" in have for person, number in pair)]
    print(count_line("pictures", len(files), PICTURES))
    print(count_line("people", len({file.split("/")[0] for file in files}), PEOPLE))
    print(count_line("pairs", len(pairs) - len(broken), PAIRS))
    print(count_line("left out (named above)", lost))
    if missing := sorted(needed - have):
        shown = ", ".join(missing[:20]) + (", ..." if len(missing) > 20 else "")
        print(f"{len(missing)} pictures that pairs need are not here: {shown}")


if __name__ == "__main__":
    sys.exit(run(main))
