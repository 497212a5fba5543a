"""Make the training half of a face folder from CASIA-WebFace (paper Sec. 4: it trains D).

    python data_scripts/prepare_casia.py SOURCE OUT

SOURCE: the folder NUMBER/001.jpg (or one that holds it), or its .zip, .tar or .tgz. OUT gets train/
and the train rows of landmarks.csv: box and five points, found by our MTCNN. `prepare_lfw.py` can
make the test half in the same OUT. The three people who are also in LFW are dropped, so that nobody
is in both. Unreadable pictures and pictures without a face are named and left out. Half a million
pictures take hours: stop it when you like, the same command resumes.
"""

import sys
from pathlib import PurePosixPath

from _common import arguments, check_places, count_line, prepare_faces, run, table_names
from _faces import Faces
from _untrusted import open_source

from ppad.files import is_picture

PICTURES = 494_414  # both counts: Yi et al., 2014, "Learning Face Representation from Scratch"
PEOPLE = 10_575
ALSO_IN_LFW = ("0166921", "1056413", "1193098")  # SphereFace's list of people in CASIA and LFW


def portraits(source, dropped, skipped):
    """Yield (name in SOURCE, NUMBER/PICTURE) of every picture of a person.

    Adds pictures of dropped people to `dropped` (by person), and pictures that lie beside the
    people's folders to `skipped` (with the reason).
    """
    paths = {name: PurePosixPath(name) for name in source.members if is_picture(name)}
    above = {path.parent.parent for path in paths.values()}  # folders of people's folders
    for name, path in paths.items():
        person = path.parent.name
        file = f"{person}/{path.name}"
        if path.parent in above:
            skipped[name] = "it lies in no folder of a person"
        elif person in ALSO_IN_LFW:
            dropped.setdefault(person, []).append(file)
        else:
            yield name, file


def main(argv=None):
    args = arguments(__doc__).parse_args(argv)
    check_places(args.source, args.out, args.landmarks)
    faces = Faces(args)
    source = open_source(args.source)
    dropped = {}
    skipped = {}
    pictures = list(portraits(source, dropped, skipped))
    faces.check_table(name for picture in pictures for name in table_names("train", *picture))
    files, lost = prepare_faces(args.out, "train", source, pictures, faces, skipped=skipped)

    people = len({file.split("/")[0] for file in files})
    total = len(files) + sum(map(len, dropped.values())) + lost
    print(count_line("pictures, dropped and left out ones included", total, PICTURES))
    print(count_line("people without the three in LFW", people, PEOPLE - len(ALSO_IN_LFW)))
    print(count_line("pictures in train", len(files)))
    for person in ALSO_IN_LFW:
        print(f"dropped, also in LFW: {person}, {len(dropped.get(person, []))} pictures")
    print(count_line("left out (named above)", lost))


if __name__ == "__main__":
    sys.exit(run(main))
