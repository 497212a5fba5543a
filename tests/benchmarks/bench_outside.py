"""How well a recognizer from elsewhere knows repainted people; writes JSON.

    python tests/benchmarks/bench_outside.py DATA --out outside.json [--run RUN ...] [--steps 3000]

DATA holds lfw/ (lfw-deepfunneled/, landmarks.tsv) and photo_pack/faces/, and the ImageNet weights
of mobilenet_v2 lie in DATA/weights. The attackers of Table 1 learn from the people whom M learned
from. This one has other people, another architecture and another loss: torchvision's MobileNetV2
with a cosine margin (Wang et al., CosFace, 2018), trained on all people of LFW with three pictures
or more who are in none of the test pairs. It never sees a repainted face, it is used for no choice,
and it stands for the public recognizers, which are far better on originals: read its error on
originals beside the others.

Judged on the pairs of photo_pack: the hand-made anonymizers, the M of this package, and that of
every RUN, a run folder of preset photo_cpu (`players.pt`).
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from ppad import attackers, config, datasets, files, folders, loop
from ppad.baselines import BASELINES, identity, make_baseline
from ppad.repainter import SHIPPED, load_modifier

FEWEST = 3  # pictures of a person: ours, two of one leave little to learn
SCALE = 30.0  # CosFace's s: ours, within the range that its paper tries
MARGIN = 0.2  # CosFace's m: ours, smaller than the paper's 0.35, for a small set


class Outsider(nn.Module):
    """MobileNetV2 on aligned BGR crops, its classes told apart by cosines with a margin."""

    def __init__(self, people: int, weights: Path, embedding: int = 256):
        super().__init__()
        network = torchvision.models.mobilenet_v2()
        network.load_state_dict(torch.load(weights, weights_only=True))
        self.body = network.features
        self.embed = nn.Sequential(nn.Linear(1280, embedding), nn.BatchNorm1d(embedding))
        self.people = nn.Parameter(torch.randn(people, embedding))

    def forward(self, crops):
        """(B, 3, h, w) as `recognizer_input` gives them, to embeddings (B, E)."""
        return self.embed(self.body(crops).mean(dim=(2, 3)))  # (B, E)

    def loss(self, crops, identities):
        """Softmax cross-entropy of scaled cosines, the true one lowered by the margin."""
        found = F.normalize(self(crops), dim=1)  # (B, E)
        cosines = found @ F.normalize(self.people, dim=1).T  # (B, P)
        lowered = cosines - MARGIN * F.one_hot(identities, cosines.shape[1])  # (B, P)
        return F.cross_entropy(SCALE * lowered, identities)


def other_people(data: Path, test_names: set[str], size: int, most: int | None):
    """Faces of the LFW people with enough pictures who are not in the test set."""
    lfw = data / "lfw"
    everybody = datasets.read_faces(
        lfw / "lfw-deepfunneled", lfw / "landmarks.tsv", size, on_bad="skip"
    )
    by_person = folders.grouped(person_of(name) for name in everybody.names)
    people = [
        numbers
        for name, numbers in by_person.items()
        if len(numbers) >= FEWEST and name not in test_names
    ][:most]
    chosen = torch.tensor([number for numbers in people for number in numbers])  # (N,)
    identities = torch.tensor([i for i, numbers in enumerate(people) for _ in numbers])  # (N,)
    names = [everybody.names[number] for number in chosen]
    return datasets.FaceSet(
        everybody.pictures[chosen], everybody.landmarks[chosen], identities, names
    )


def person_of(name: str) -> str:
    """Of a picture's name, "person/picture"."""
    return name.split("/")[0]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", type=Path, nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=3000, help="of training, 32 faces each")
    parser.add_argument("--most", type=int, help="of the people to learn from, for a try")
    parser.add_argument("--keep", type=Path, help="folder of the training, to resume it")
    args = parser.parse_args(argv)

    settings = config.build("photo_cpu", pretrain_recognizer_batch=32)
    faces = args.data / "photo_pack" / "faces"
    test = datasets.read_faces(faces / "test", faces / "landmarks.csv", settings.face_size)
    pairs = datasets.read_pairs(faces / "pairs_test.txt", test)
    test_names = {person_of(name) for name in test.names}
    train = other_people(args.data, test_names, settings.face_size, args.most)
    people = int(train.identities.max()) + 1
    print(f"{len(train)} pictures of {people} people to learn from")

    torch.manual_seed(0)
    weights = args.data / "weights" / "mobilenet_v2-b0353104.pth"
    outsider = Outsider(people, weights)
    with tempfile.TemporaryDirectory() as folder:
        place = args.keep or Path(folder)
        training = loop.Loop(place, "outside recognizer", 0, {"steps": args.steps})
        attackers.train_recognizer(outsider, train, settings, args.steps, training, 0)
    outsider.eval()

    found = {name: make_baseline(name) for name in BASELINES if name != "Un-anonymized"}
    found["M of the package"] = load_modifier(SHIPPED)[0]
    for run in args.run:
        found[f"M of {run.name}"] = load_modifier(run / "players.pt")[0]

    def features(anonymizer):
        torch.manual_seed(0)  # whatever was drawn for the row before
        modified = attackers.RepaintedFaces(test, anonymizer, settings)
        return attackers.embed(outsider, modified.floats(), test.landmarks, settings)

    before = features(identity)
    results = {
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "torch": torch.__version__,
        "steps": args.steps,
        "people": people,
        "pictures": len(train),
        "originals": attackers.verify(before, before, pairs)["error"],
        "rows": {},
    }
    for name, anonymizer in found.items():
        after = features(anonymizer)
        both = attackers.verify(after, after, pairs)["error"]
        probe = attackers.verify(before, after, pairs)["error"]
        results["rows"][name] = {
            "both": round(both, 4),
            "original_against_modified": round(probe, 4),
        }
        print(f"{name:18} both {100 * both:5.1f} %, one original {100 * probe:5.1f} %")
    files.write_file(args.out, json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
