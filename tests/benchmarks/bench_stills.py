"""How many faces in still pictures `ppad.anonymize` covers; writes JSON.

    python tests/benchmarks/bench_stills.py DATA --out stills.json [--pictures 1000] [--package DIR]

DATA holds lfw/ (lfw-deepfunneled/, landmarks.tsv), whose table has one face box a picture, found by
the original MTCNN weights; ours lie in $PPAD_WEIGHTS. Of the table every n-th picture is taken. A
face counts as covered if `--method mask` blackens every pixel of its box; `sides` tells the same of
pictures turned by 90 degrees to the left, `dark` of pictures at a twentieth of their brightness.
`--package` is the folder that holds the ppad to measure, for instance an older checkout.
"""

import argparse
import csv
import json
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
LOOKS = ("upright", "sides", "dark")


def look_at(picture, box, look):
    """A picture (H, W, 3) uint8 and its face box, as that look shows them."""
    if look == "dark":
        return (picture * 0.05).round().astype(np.uint8), box
    if look == "sides":
        x0, y0, x1, y1 = box
        width = picture.shape[1]
        return np.ascontiguousarray(np.rot90(picture)), (y0, width - x1, y1, width - x0)
    return picture, box


def is_covered(anonymizer, picture, box):
    """Whether all pixels of the box have one color: `mask` paints a face so."""
    x0, y0, x1, y1 = (max(0, round(edge)) for edge in box)
    painted = anonymizer.picture(picture)[y0:y1, x0:x1]
    return bool((painted == painted[:1, :1]).all())


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--package", type=Path, default=ROOT)
    args = parser.parse_args(argv)

    sys.path.insert(0, str(args.package.resolve()))
    import torch

    from ppad.repainter import Anonymizer

    with open(args.data / "lfw" / "landmarks.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    rows = rows[:: len(rows) // args.pictures][: args.pictures]
    anonymizer = Anonymizer.from_method("mask")
    covered = dict.fromkeys(LOOKS, 0)
    missed = {look: [] for look in LOOKS}
    began = time.monotonic()
    for row in rows:
        picture = np.array(Image.open(args.data / "lfw" / "lfw-deepfunneled" / row["file"]))
        box = [float(row[name]) for name in ("x_min", "y_min", "x_max", "y_max")]
        for look in LOOKS:
            if is_covered(anonymizer, *look_at(picture, box, look)):
                covered[look] += 1
            else:
                missed[look].append(row["file"])
    report = {
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "torch": torch.__version__,
        "pictures": len(rows),
        "covered": covered,
        "missed": {look: names[:20] for look, names in missed.items()},
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({"covered": covered}))


if __name__ == "__main__":
    main()
