"""The user study of paper Sec. 5.5 as a kit: can people see through M?

    python -m ppad.user_study make --run runs/toy --out study
    python -m ppad.user_study score study/key.json answers/*.json

`make` repaints test faces with a run's M and writes `study/study.html`, one file that needs no
server and no network. Q1: 12 + 12 pairs of repainted faces, "same person or not". Q2: 16 repainted
faces, "who is this?" (in a set without names: "which of these four people?"). Q3: a gallery,
"would you feel protected?". The truth goes to `study/key.json`; the page does not contain it.
`score` reads the subjects' files, and prints and draws the result beside the paper's.

A study with people needs their informed consent and, nearly everywhere, the approval of an ethics
board. Do not ask children, and do not show pictures of people who have not agreed to it.
"""

import argparse
import base64
import io
import json
import re
import secrets
import sys
import unicodedata
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from ppad import datasets, files, folders
from ppad.baselines import identity
from ppad.evaluate import drawn_test_people
from ppad.repainter import load_modifier

PAIRS = 12  # Sec. 5.5: 12 positive and 12 negative pairs
PEOPLE = 16  # Sec. 5.5: 16 celebrities
CHOICES = 4  # ours: originals to choose from in a set without names
GALLERY = 12  # ours; the paper: "a set of modified images"
PAPER = {"q1_accuracy": 0.533, "q2_named": 0.1975, "q3_protected": 0.8}  # Sec. 5.5
RESAMPLES = 2000  # ours: bootstrap over subjects
KEEP = "restore it from a copy, as it cannot be made again"
TEMPLATE = Path(__file__).with_name("user_study.html")


# ---------------------------------------------------------------- make


def make(run: Path, out: Path, seed: int) -> None:
    """Write study.html and key.json to `out` from the finished run `run`.

    Raises LoopError if the run is missing, DataError if its test faces are missing or too few, or
    if `out` already holds a study.
    """
    for path in (out / "study.html", out / "key.json"):
        if path.exists():
            raise files.DataError(f"{path} exists and may have answers: give another --out")
    modifier, config = load_modifier(run / "players.pt")
    study, key = compose(test_faces(config, run), modifier, np.random.default_rng(seed))
    page = TEMPLATE.read_text(encoding="utf-8").replace("__STUDY__", json.dumps(study))
    out.mkdir(parents=True, exist_ok=True)
    files.write_file(out / "key.json", json.dumps(key, indent=1))
    files.write_file(out / "study.html", page)
    print(f"{out / 'study.html'} is for the subjects; keep {out / 'key.json'} to yourself.")


def test_faces(config, run: Path) -> datasets.FaceSet:
    """The run's test faces: drawn with the run's first seed, or read from its folder."""
    size = config.face_size
    if config.drawn:
        seed = files.read_json(run / "results.json", needs=["seeds"])["seeds"][0]
        people = drawn_test_people(config)
        return datasets.toy_faces(seed, people, config.test_pictures_each, size)
    # players.pt holds only the folder's name, because people share it
    root = Path(files.read_json(run / "config.json", needs=["faces"])["faces"])
    table = root / "landmarks.csv"
    return datasets.read_faces(root / "test", table, size, face_scale=config.face_scale)


def compose(faces, modifier, rng) -> tuple[dict, dict]:
    """The page's content (pictures as data URIs) and the key: two dicts, by question.

    faces: a FaceSet. modifier: M. rng: numpy Generator that draws people, pictures and order.
    """
    pictures_of = folders.grouped(map(folders.person_of, faces.names))
    pairs, same = draw_pairs(pictures_of, rng)
    names = [f"q1-{number:02d}" for number in range(len(pairs))]
    q1 = [
        {"id": name, "images": repaint(faces, modifier, pair)} for name, pair in zip(names, pairs)
    ]
    q2, truth = draw_people(faces, modifier, pictures_of, rng)
    gallery = rng.choice(len(faces), min(GALLERY, len(faces)), replace=False).tolist()
    number = secrets.token_hex(8)
    study = {"study": number, "q1": q1, "q2": q2, "q3": repaint(faces, modifier, gallery)}
    return study, {"study": number, "q1": dict(zip(names, same)), "q2": truth}


def draw_pairs(pictures_of: dict, rng) -> tuple[list, list]:
    """PAIRS pairs of one person and PAIRS of two people in random order, no person in two pairs.

    Returns index pairs and, for each, whether both pictures show one person.
    """
    several = [person for person in sorted(pictures_of) if len(pictures_of[person]) >= 2]
    if len(several) < PAIRS or len(pictures_of) < 3 * PAIRS:
        raise files.DataError(
            f"the test set has {len(pictures_of)} people, {len(several)} with two pictures; "
            f"question 1 needs {3 * PAIRS} and {PAIRS}: take a run with more test people"
        )
    positive = rng.choice(several, PAIRS, replace=False).tolist()
    rest = [person for person in sorted(pictures_of) if person not in positive]
    negative = rng.choice(rest, (PAIRS, 2), replace=False).tolist()
    pairs = [rng.choice(pictures_of[person], 2, replace=False).tolist() for person in positive]
    pairs += [[int(rng.choice(pictures_of[person])) for person in two] for two in negative]
    order = rng.permutation(2 * PAIRS).tolist()
    return [pairs[i] for i in order], [i < PAIRS for i in order]


def draw_people(faces, modifier, pictures_of: dict, rng) -> tuple[dict, dict]:
    """Question 2 and its truth: the person's name or, in a set without names, the right choice.

    With names, the people with most pictures are chosen: the best known (ours). Without, the right
    choice is another picture of the person: the same picture would show the same background.
    """
    named = [person for person in pictures_of if has_name(person)]
    by_name = len(named) >= PEOPLE
    if by_name:
        chosen = sorted(named, key=lambda person: (-len(pictures_of[person]), person))[:PEOPLE]
    else:
        chosen = rng.choice(sorted(pictures_of), PEOPLE, replace=False).tolist()
    rng.shuffle(chosen)
    items = []
    truth = {}
    for number, person in enumerate(chosen):
        index = int(rng.choice(pictures_of[person]))
        item = {"id": f"q2-{number:02d}", "image": repaint(faces, modifier, [index])[0]}
        if by_name:
            item["original"] = repaint(faces, identity, [index])[0]
            truth[item["id"]] = person.replace("_", " ")
        else:
            another = [i for i in pictures_of[person] if i != index] or [index]
            others = [other for other in sorted(pictures_of) if other != person]
            wrong = [pictures_of[i] for i in rng.choice(others, CHOICES - 1, replace=False)]
            options = [int(rng.choice(pictures)) for pictures in (another, *wrong)]
            order = rng.permutation(CHOICES).tolist()
            item["options"] = repaint(faces, identity, [options[i] for i in order])
            truth[item["id"]] = order.index(0)
        items.append(item)
    kind = "names" if by_name else "choice"
    return {"kind": kind, "items": items}, {"kind": kind, "items": truth}


def has_name(person: str) -> bool:
    """Whether a folder name is a person's: two or more words without digits."""
    return bool(re.fullmatch(r"[^\W\d]+([_ .'-]+[^\W\d]+)+\.?", person))


@torch.no_grad()
def repaint(faces, modifier, indices: list[int]) -> list[str]:
    """Pictures `indices` of the set, modified by M, as data URIs that contain the PNGs."""
    pictures = modifier(faces.batch(torch.tensor(indices))[0])  # (B, 3, S, S) in [-1, 1]
    pixels = ((pictures + 1) * 127.5).round().clamp(0, 255).byte()
    uris = []
    for picture in pixels.permute(0, 2, 3, 1).numpy():  # (S, S, 3)
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        uris.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
    return uris


# ---------------------------------------------------------------- score


def score(key_path: Path, answer_paths: list[Path], out: Path) -> dict:
    """Read the key and every subject's answers; print, draw and write the result to `out`.

    Raises DataError naming the first file that is damaged, incomplete, repeated or another study's.
    """
    paths = []
    for path in answer_paths:  # on Windows the shell does not expand a *
        paths += [path] if path.exists() else sorted(path.parent.glob(path.name)) or [path]
    for path in (out / "study_results.json", out / "study_results.png"):
        if path.resolve() in [given.resolve() for given in (key_path, *paths)]:
            raise files.DataError(f"{path} is the key or an answer: rename it, or give another OUT")
    key = files.read_json(key_path, KEEP, needs=["study", "q1", "q2"])
    if not is_key(key):
        raise files.DataError(f"{key_path} is not a study's key: give the key.json that make wrote")
    subjects = {}
    for path in paths:
        given = read_answers(path, key)
        if given["subject"] in subjects:
            raise files.DataError(f"{path} repeats the subject of another file: leave it out")
        subjects[given["subject"]] = given["answers"]
    report = evaluate(list(subjects.values()), key)
    files.write_file(out / "study_results.json", json.dumps(report, indent=1))
    draw(report, out / "study_results.png")
    print(as_text(report))
    print(f"study_results.json and study_results.png are in {out}.")
    return report


def is_key(key: dict) -> bool:
    """Whether the key has the structure that `compose` gives it."""
    try:
        truth = {"names": str, "choice": int}[key["q2"]["kind"]]
        people = [type(one) is truth for one in key["q2"]["items"].values()]
        pairs = [type(one) is bool for one in key["q1"].values()]
    except (KeyError, TypeError, AttributeError):
        return False
    return bool(pairs) and all(pairs + people)


def read_answers(path: Path, key: dict) -> dict:
    """One subject's file. DataError unless it is complete and belongs to this study."""
    given = files.read_json(path, KEEP, needs=["study", "subject", "answers"])
    if not isinstance(given["subject"], str) or not isinstance(given["answers"], dict):
        raise files.DataError(f"{path} is not a subject's answers: give files saved by study.html")
    if given["study"] != key["study"]:
        raise files.DataError(f"{path} belongs to another study: give answers to this key only")
    for item in [*key["q1"], *key["q2"]["items"], "q3"]:
        if not usable(item, given["answers"].get(item), key["q2"]["kind"]):
            raise files.DataError(
                f"{path} has no usable answer to {item}: let the subject finish, or leave it out"
            )
    return given


def usable(item: str, answer, kind: str) -> bool:
    """Whether the page could have saved `answer` for `item`."""
    if not isinstance(answer, dict) or "answer" not in answer:
        return False
    value = answer["answer"]
    if item == "q3":
        return isinstance(value, bool)
    if item.startswith("q1"):
        return value in ("same", "different")
    if kind == "choice":
        return type(value) is int and 0 <= value < CHOICES
    return isinstance(value, str | None) and isinstance(answer.get("known"), bool)


def evaluate(subjects: list[dict], key: dict) -> dict:
    """The study's figures. subjects: each subject's answers.

    Q1: share of right answers, with a 95 % interval by bootstrap over subjects (None for one).
    Q2: share of right names among the people a subject knows; without names, of right choices.
    Q3: how many subjects would feel protected.
    """
    kind = key["q2"]["kind"]
    right = []  # (n, 24)
    named = []  # True if right
    for answers in subjects:
        pairs = key["q1"].items()
        right.append([(answers[item]["answer"] == "same") == same for item, same in pairs])
        for item, truth in key["q2"]["items"].items():
            given = answers[item]
            if kind == "choice":
                named.append(given["answer"] == truth)
            elif given["known"]:
                named.append(same_name(given["answer"], truth))
    per_subject = np.mean(right, axis=1)  # (n,)
    return {
        "study": key["study"],
        "subjects": len(subjects),
        "q1_accuracy": float(per_subject.mean()),
        "q1_interval": interval(per_subject),
        "q2_kind": kind,
        "q2_answers": len(named),
        "q2_named": float(np.mean(named)) if named else None,
        "q3_protected": sum(answers["q3"]["answer"] for answers in subjects),
        "paper": PAPER,
    }


def same_name(answer: str | None, truth: str) -> bool:
    """Whether an answer is the person's full name or family name; case and accents are ignored.

    The family name alone counts (ours): a subject who writes "Bush" has seen through M.
    """
    words = words_of(answer or "")
    name = words_of(truth)
    return bool(words) and words[-1:] == name[-1:] and set(words) <= set(name)


def words_of(name: str) -> list[str]:
    """A name's words in lower case, without accents, punctuation and the suffix Jr."""
    letters = unicodedata.normalize("NFKD", name.casefold())
    letters = "".join(c for c in letters if not unicodedata.combining(c))
    letters = re.sub(r"(?<=[aou])e", "", letters)  # LFW writes Schroeder for Schröder
    return [word for word in re.split(r"[\W_]+", letters) if word not in ("", "jr")]


def interval(per_subject: np.ndarray) -> list[float] | None:
    """95 % interval of the mean by bootstrap over subjects; None for one subject."""
    if len(per_subject) < 2:
        return None
    draws = np.random.default_rng(0).integers(len(per_subject), size=(RESAMPLES, len(per_subject)))
    low, high = np.percentile(per_subject[draws].mean(axis=1), [2.5, 97.5])
    return [float(low), float(high)]


def as_text(report: dict) -> str:
    """The result in a few lines, beside the paper's."""
    subjects = report["subjects"]
    spread = "no interval from one subject"
    if report["q1_interval"]:
        spread = "95 % interval over subjects {:.1%} to {:.1%}".format(*report["q1_interval"])
    named = report["q2_named"]
    share = "nobody was known" if named is None else f"{named:.1%}"
    q2 = f"named among the known: {share} of {report['q2_answers']} answers (paper 19.75%)"
    if report["q2_kind"] == "choice":
        q2 = f"person found among {CHOICES}: {share} (chance {1 / CHOICES:.0%})"
    return f"""{subjects} subjects (paper: 10)
Q1 same person or not: {report["q1_accuracy"]:.1%} right, {spread} (paper 53.3%)
Q2 {q2}
Q3 would feel protected: {report["q3_protected"]} of {subjects} (paper 8 of 10)"""


def draw(report: dict, path: Path) -> None:
    """Draw the three figures as bars beside the paper's."""
    names = report["q2_kind"] == "names"
    protected = report["q3_protected"] / report["subjects"]
    named = np.nan if report["q2_named"] is None else report["q2_named"]
    accuracy = report["q1_accuracy"]
    paper = PAPER | ({} if names else {"q2_named": np.nan})  # the paper asks for names only
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    places = np.arange(3)
    axes.bar(places - 0.2, [accuracy, named, protected], 0.4, label="this study")
    axes.bar(places + 0.2, list(paper.values()), 0.4, label="paper, Sec. 5.5", color="lightgray")
    if report["q1_interval"]:
        low, high = report["q1_interval"]
        axes.errorbar(-0.2, accuracy, [[accuracy - low], [high - accuracy]], color="black")
    axes.set_xticks(places, ["Q1 right", "Q2 named" if names else "Q2 found", "Q3 protected"])
    axes.set_ylim(0, 1)
    axes.set_ylabel("share")
    axes.legend()
    with files.atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


# ---------------------------------------------------------------- command line


def main(argv=None) -> int:
    """Run a command. Returns 0, 2 after an error to fix, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m ppad.user_study", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("make", help="write study.html and key.json from a run").add_argument
    add("--run", type=Path, required=True, help="a finished run with the row Ours")
    add("--out", type=Path, required=True, help="folder for study.html and key.json")
    add("--seed", type=int, default=0, help="random seed")
    add = commands.add_parser("score", help="evaluate the subjects' files").add_argument
    add("key", type=Path, help="the study's key.json")
    add("answers", type=Path, nargs="+", help="files saved by the page")
    add("--out", type=Path, help="folder for the results (default: the key's)")
    args = parser.parse_args(argv)
    if args.command == "make" and args.seed < 0:
        parser.error(f"argument --seed: {args.seed} is negative: give 0 or more")
    try:
        if args.command == "make":
            make(args.run, args.out, args.seed)
        else:
            score(args.key, args.answers, args.out or args.key.parent)
    except (ValueError, OSError, RuntimeError) as error:  # LoopError is a RuntimeError
        print(f"ppad.user_study: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ppad.user_study: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
