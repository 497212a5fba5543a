"""Rows of Table 1, evaluated with stubs whose answers are known: every number by hand."""

import dataclasses
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from test_attackers import TrueReader
from torch import nn

from ppad import attackers, evaluate, trainer
from ppad.baselines import Blur, identity, make_baseline
from ppad.crop_sampler import cut_pixels
from ppad.datasets import Pairs
from ppad.files import DataError
from ppad.players import aligned_crops, make_recognizer


@pytest.fixture
def data(tiny_faces, tiny_actions):
    first, second = torch.triu_indices(len(tiny_faces), len(tiny_faces), 1)
    same = tiny_faces.identities[first] == tiny_faces.identities[second]
    pairs = Pairs(first, second, same, torch.arange(len(first)) % 4)
    return evaluate.Data(tiny_faces, tiny_actions, tiny_faces, tiny_actions, pairs)


class Oracle(nn.Module):
    """Knows originals by their pixels: a direction for each person; others get random features."""

    def __init__(self, faces, size):
        super().__init__()
        pictures, landmarks, identities = faces.batch(torch.arange(len(faces)))
        self.crops = aligned_crops(pictures, landmarks, size)
        self.identities = identities
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, crops):
        features = torch.randn(len(crops), 12, generator=self.generator)
        for i, crop in enumerate(crops):
            for known in (self.crops, self.crops.flip(3)):
                distance = (known - crop).abs().amax((1, 2, 3))
                if float(distance.min()) < 1e-4:
                    features[i] = torch.eye(12)[self.identities[distance.argmin()]]
        return features


class Blind(nn.Module):
    """Sees nothing: every face is the same to it."""

    def forward(self, crops):
        return torch.ones(len(crops), 4)


class Detector:
    """Gives the answers of a list, frame by frame, whatever the batch size; keeps the frames."""

    def __init__(self, answers):
        self.answers = list(answers)
        self.frames = []

    def detect(self, frames):
        self.frames += list(frames)
        return [self.answers.pop(0) for _ in frames]


def truth(actions, shift=0):
    return [
        {"boxes": boxes, "labels": (labels - 1 + shift) % 10 + 1, "scores": torch.ones(len(labels))}
        for boxes, labels in zip(actions.boxes, actions.labels)
    ]


# ------------------------------------------------------------------ action detection


def test_a_detector_that_tells_the_truth_has_mAP_1(tiny, tiny_actions):
    detector = Detector(truth(tiny_actions))
    mean, per_class = evaluate.action_ap(
        detector, make_baseline("Masked"), tiny_actions, tiny(eval_batch=24)
    )
    assert mean == 1.0 and per_class == dict.fromkeys(tiny_actions.classes, 1.0)
    assert len(detector.frames) == len(tiny_actions)


def test_a_detector_that_names_the_next_action_has_mAP_0(tiny, tiny_actions):
    assert (
        evaluate.action_ap(Detector(truth(tiny_actions, 1)), identity, tiny_actions, tiny())[0] == 0
    )


def test_AP_is_filed_under_the_right_class(tiny, tiny_actions):
    answers = truth(tiny_actions)
    answers[3]["labels"] = torch.tensor([1])  # the frame of action 3 is called action 0
    mean, per_class = evaluate.action_ap(Detector(answers), identity, tiny_actions, tiny())
    wrong = tiny_actions.classes[3]
    confused = tiny_actions.classes[0]
    # the true one comes first among equal scores
    assert per_class[wrong] == 0 and per_class[confused] == 1.0
    assert mean == pytest.approx(0.9)


def test_the_detector_is_shown_repainted_faces(tiny, tiny_actions):
    detector = Detector(truth(tiny_actions))
    evaluate.action_ap(detector, make_baseline("Masked"), tiny_actions, tiny())
    frames, _, boxes = tiny_actions.batch(torch.arange(len(tiny_actions)))
    for seen, frame, box in zip(detector.frames, frames, boxes):
        x, y = ((box[0, :2] + box[0, 2:]) / 2).int().tolist()
        assert (seen[:, y, x] < -0.999).all() and (seen != frame).any(0).float().mean() < 0.6


def test_un_anonymized_frames_are_shown_as_they_are(tiny, tiny_actions):
    detector = Detector(truth(tiny_actions))
    evaluate.action_ap(detector, make_baseline("Un-anonymized"), tiny_actions, tiny())
    frames, _, _ = tiny_actions.batch(torch.arange(len(tiny_actions)))
    assert torch.equal(torch.stack(detector.frames), frames)  # no crop is pasted back, so no blur


# ------------------------------------------------------------------ privacy


def recognizers(faces, config, sees, pictures):
    size = (config.recognizer_height, config.recognizer_breadth)
    return {
        name: (Oracle(faces, size) if name == sees else Blind(), pictures)
        for name in evaluate.ATTACKERS
    }


@pytest.mark.parametrize("sees", evaluate.ATTACKERS)
def test_strongest_is_the_lowest_error_of_any_attacker(tiny, data, sees):
    originals = data.test_faces.floats()
    attackers = recognizers(data.test_faces, tiny(), sees, originals)
    report = evaluate.privacy(attackers, data, tiny())
    assert (
        report[sees]["both"]["error"]
        == report[sees]["probe"]["error"]
        == report[sees]["originals"]
        == 0
    )
    assert report["strongest"]["error"] == 0 and report["strongest"]["attacker"] == sees
    assert all(report[name]["both"]["error"] > 0.1 for name in evaluate.ATTACKERS if name != sees)
    assert report[sees]["rank1"] == 1.0


def test_strongest_is_the_lowest_over_both_kinds_of_comparison(tiny, data):
    config = tiny()
    shape = (len(data.test_faces), 3, 32, 32)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    players = recognizers(data.test_faces, config, "own", noise)
    report = evaluate.privacy(players, data, config)
    every = {
        (name, kind): report[name][kind]["error"]
        for name in evaluate.ATTACKERS
        for kind in ("both", "probe")
    }
    assert report["strongest"]["error"] == min(every.values())
    assert every[report["strongest"]["attacker"], report["strongest"]["pictures"]] == min(
        every.values()
    )
    assert report["own"]["originals"] == 0  # originals are still recognized


def test_each_attacker_is_judged_by_what_it_is_shown(tiny, data):
    """One that has the originals back knows them; the same recognizer on black ones does not."""
    config = tiny()
    originals = data.test_faces.floats()
    black = torch.full((len(data.test_faces), 3, 32, 32), -1.0)
    players = recognizers(data.test_faces, config, "never_saw", black)
    players["inverting_never_saw"] = (players["never_saw"][0], originals)
    report = evaluate.privacy(players, data, config)
    assert report["strongest"]["attacker"] == "inverting_never_saw"
    assert report["inverting_never_saw"]["both"]["error"] == 0
    assert report["never_saw"]["both"]["error"] > 0.1


def test_interval_contains_the_point():
    """Forty people, as many same pairs as different ones, two folds."""
    generator = torch.Generator().manual_seed(0)
    identities = torch.arange(40).repeat_interleave(5)
    first = torch.arange(0, 200, 5).repeat(4)  # everybody's first picture, four times
    partner = torch.cat(
        [first[:40] + 1, first[:40] + 2, (first[:40] + 5) % 200, (first[:40] + 11) % 200]
    )
    pairs = Pairs(first, partner, identities[first] == identities[partner], torch.arange(160) % 2)
    data = evaluate.Data(None, None, SimpleNamespace(identities=identities), None, pairs)
    exact = torch.eye(40)[identities]
    features = exact + 0.25 * torch.randn(200, 40, generator=generator)
    error = attackers.verify(features, features, pairs)["error"]
    low, high = evaluate.error_interval(features, features, data, seed=0)
    assert 0.05 < error < 0.45 and low < error < high and 0.05 < high - low < 0.3
    assert (low, high) == evaluate.error_interval(features, features, data, seed=0)
    assert evaluate.error_interval(exact, exact, data, seed=0) == (0.0, 0.0)


def test_controls_stand_beside_every_figure(tiny, data):
    size = (28, 24)
    judges = evaluate.Judges(Oracle(data.test_faces, size), Blind(), TrueReader(data.test_faces))
    report = evaluate.controls(judges, data, tiny(eval_batch=32))
    assert report["never_saw"]["originals"]["error"] == 0
    assert report["never_saw"]["misaligned_originals"]["error"] > 0.1
    assert report["other_architecture"]["originals"]["error"] > 0.1
    assert report["landmark_reader_on_originals"] == 0 and report["frames_without_face"] == 0


def test_frames_without_a_face_are_counted(tiny, data, tiny_actions):
    faces = [torch.zeros(0, 4)] * 3 + tiny_actions.face_boxes[3:]
    actions = dataclasses.replace(tiny_actions, face_boxes=faces)
    judges = evaluate.Judges(Blind(), Blind(), TrueReader(data.test_faces))
    report = evaluate.controls(
        judges, evaluate.Data(data.faces, actions, data.test_faces, actions, data.pairs), tiny()
    )
    assert report["frames_without_face"] == pytest.approx(0.3)


# ------------------------------------------------------------------ a whole row


def test_a_row_quotes_the_right_attacker_in_each_place(tiny, data, tiny_actions):
    size = (28, 24)
    config = tiny()

    class Game:
        anonymizer = make_baseline("Un-anonymized")
        recognizer = Blind()
        detector = Detector(truth(tiny_actions))
        device = "cpu"

    judges = evaluate.Judges(Blind(), Oracle(data.test_faces, size), TrueReader(data.test_faces))
    inverter = make_baseline("Masked")
    row = evaluate.judge_row(Game, Blind(), inverter, judges, data, config, seed=4)
    error = row["verification_error"]
    assert set(error) == {*evaluate.ATTACKERS, "inverting", "strongest", "probe_vs_original"}
    assert error["other_architecture"] == error["strongest"] == error["probe_vs_original"] == 0
    assert error["own"] == error["never_saw"] == error["retrained"] > 0.1
    assert error["inverting_other_architecture"] > 0.1  # it was given black pictures
    assert error["inverting"] == min(error[name] for name in evaluate.INVERTING)
    assert row["mAP"] == 1.0
    left = row["structure"]
    assert left["l1"] == left["landmark_error"] == 0 and set(row["AP"]) == set(tiny_actions.classes)


def test_an_anonymizer_that_draws_is_judged_alike_each_time(tiny, data, tiny_actions):
    class Drawing:
        stochastic = True

        def __call__(self, faces):
            return faces * torch.rand(len(faces), 1, 1, 1)

    judges = evaluate.Judges(Blind(), Blind(), TrueReader(data.test_faces))
    rows = []
    for chance in (1, 2):
        torch.manual_seed(chance)
        game = SimpleNamespace(
            anonymizer=Drawing(),
            recognizer=Blind(),
            detector=Detector(truth(tiny_actions)),
            device="cpu",
        )
        judges.landmark_reader.at = 0
        rows.append(evaluate.judge_row(game, Blind(), identity, judges, data, tiny(), seed=0))
    assert rows[0]["structure"] == rows[1]["structure"]
    assert 0.1 < rows[0]["structure"]["l1"] < 1


def test_faces_too_small_for_an_anonymizer_are_counted(tiny, data, tiny_actions):
    """Blur leaves faces of fewer pixels than its cells as they are; nobody else does."""
    frames, _, boxes = tiny_actions.batch(torch.arange(len(tiny_actions)))
    sides = sorted(square.shape[-1] for square in cut_pixels(frames, boxes))
    judges = evaluate.Judges(Blind(), Blind(), TrueReader(data.test_faces))

    def too_small(anonymizer):
        game = SimpleNamespace(
            anonymizer=anonymizer,
            recognizer=Blind(),
            detector=Detector(truth(tiny_actions)),
            device="cpu",
        )
        judges.landmark_reader.at = 0
        row = evaluate.judge_row(game, Blind(), identity, judges, data, tiny(), seed=0)
        return row["structure"]["faces_too_small"]

    middle = sides[len(sides) // 2]
    assert too_small(Blur(middle)) == sum(side < middle for side in sides) > 0
    assert too_small(make_baseline("Masked")) == 0


# ------------------------------------------------------------------ a row of one's own

OWN = """
import torch
from torch import nn

class Darker:
    def __call__(self, faces):
        return faces / 2 - 0.5

class Network(nn.Module):
    size = 32
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
    def forward(self, faces):
        return torch.tanh(self.layer(faces))

class InPlace:
    def __call__(self, faces):
        faces[:, :, 4:8] = 0
        return faces

class Double:
    def __call__(self, faces):
        return faces.double() / 2

class Late:
    def __init__(self):
        self.calls = 0
    def __call__(self, faces):
        self.calls += 1
        return faces * (float("nan") if self.calls > 6 else 0.5)

class Random:
    stochastic = True
    def __call__(self, faces):
        return torch.rand_like(faces)

class Secretly(Random):
    stochastic = False

class Functions(Random):
    def state_dict(self):
        return {"draw": lambda: 0}

class Forgetful(Random):
    def state_dict(self):
        return {}

class Average:
    def __call__(self, faces):
        return faces.mean(0, keepdim=True).expand_as(faces)

class Half:
    def __call__(self, faces):
        return faces[..., ::2, ::2]

class Bright:
    def __call__(self, faces):
        return faces + 1

class NotANumber:
    def __call__(self, faces):
        return faces * float("nan")

class Numbers:
    def __call__(self, faces):
        return faces.numpy()

class Fixed:
    def __call__(self, faces):
        return faces[:, :, torch.arange(32)]

class Other:
    size = 64
    def __call__(self, faces):
        return faces

class Text(Other):
    size = "32"

class Counted:
    stochastic = True
    state = {"calls": 3}
    def __call__(self, faces):
        return torch.rand_like(faces)
    def state_dict(self):
        return self.state
    def load_state_dict(self, state):
        self.state = state

class Needs:
    def __init__(self, path):
        pass
"""


@pytest.mark.parametrize("name", ["Darker", "Network", "Random", "Counted"])
def test_an_own_anonymizer_is_read(tiny, tmp_path, name):
    (tmp_path / "own.py").write_text(OWN)
    row = evaluate.read_own_row(f"K2 {name}={tmp_path}/own.py:{name}", 32)
    assert row.name == f"K2 {name}"
    anonymizer = row.make()
    assert anonymizer is not row.make()  # each seed has its own
    faces = torch.zeros(2, 3, 32, 32)
    assert anonymizer(faces).shape == faces.shape
    if name == "Network":  # it learns nothing in the row
        assert not anonymizer.anonymizer.training
        assert not any(p.requires_grad for p in anonymizer.anonymizer.parameters())
    recognizer = make_recognizer(tiny(), 2)
    assert not trainer.Game(tiny(), recognizer, None, anonymizer).modifier_learns


def test_an_own_anonymizer_may_write_into_its_faces_and_use_another_type(tmp_path):
    """The originals that D learns from, and the inverter's targets, stay what they are."""
    (tmp_path / "own.py").write_text(OWN)
    faces = torch.rand(2, 3, 32, 32)
    before = faces.clone()
    made = evaluate.read_own_row(f"A={tmp_path}/own.py:InPlace", 32).make()(faces)
    assert torch.equal(faces, before) and (made[:, :, 4:8] == 0).all()
    made = evaluate.read_own_row(f"A={tmp_path}/own.py:Double", 32).make()(faces)
    assert made.dtype == torch.float32 and torch.equal(made, faces / 2)


def test_each_answer_of_an_own_anonymizer_is_checked(tmp_path):
    """Not only the first ones: else a row would blame the package's learning rate."""
    (tmp_path / "own.py").write_text(OWN)
    anonymizer = evaluate.read_own_row(f"A={tmp_path}/own.py:Late", 32).make()
    faces = torch.rand(2, 3, 32, 32)
    for _ in range(6):
        assert torch.equal(anonymizer(faces), faces / 2)
    with pytest.raises(DataError, match="Late of .*own.py returns nan to nan"):
        anonymizer(faces)


def test_full_memory_is_not_an_own_anonymizers_fault():
    def fill(faces):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        evaluate.Guarded(fill, "own.py", "--row A: Own of own.py")(torch.zeros(1, 3, 8, 8))


def test_an_own_anonymizer_that_ends_the_program_is_refused():
    """With status 0 the run would look like a finished one."""
    anonymizer = evaluate.Guarded(lambda faces: sys.exit(0), "own.py", "--row A: Own of own.py")
    with pytest.raises(DataError, match="Own of own.py raised SystemExit: 0"):
        anonymizer(torch.rand(2, 3, 32, 32))


@pytest.mark.parametrize("error", ["ValueError", "KeyError", "RuntimeError"])
def test_an_own_anonymizer_that_fails_later_is_named_with_its_line(tmp_path, monkeypatch, error):
    monkeypatch.setattr(sys, "path", [*sys.path])
    text = "class Own:\n    fails = False\n    def __call__(self, faces):\n"
    text += f"        if self.fails:\n            raise {error}('nine')\n        return faces / 2\n"
    (tmp_path / "own.py").write_text(text)
    anonymizer = evaluate.read_own_row(f"A={tmp_path / 'own.py'}:Own", 32).make()
    anonymizer.anonymizer.fails = True
    with pytest.raises(DataError, match=rf"--row A: Own of .*own.py raised {error}: .*\(line 5\)"):
        anonymizer(torch.rand(2, 3, 32, 32))


def test_an_own_anonymizer_may_import_what_lies_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "half_of_it.py").write_text("def half(faces):\n    return faces / 2\n")
    text = "import half_of_it\nclass Own:\n    def __call__(self, faces):\n"
    (tmp_path / "own.py").write_text(f"{text}        return half_of_it.half(faces)\n")
    anonymizer = evaluate.read_own_row(f"A={tmp_path}/own.py:Own", 32).make()
    assert torch.equal(anonymizer(torch.ones(1, 3, 32, 32)), torch.full((1, 3, 32, 32), 0.5))


def test_another_class_of_the_same_file_is_another_row(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    rows = [evaluate.read_own_row(f"A={tmp_path}/own.py:{name}", 32) for name in ("Darker", "Late")]
    assert rows[0].checksum != rows[1].checksum


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("OWN", "--row OWN: give NAME=FILE.py:CLASS"),
        ("=own.py:Darker", "give NAME=FILE.py:CLASS"),
        ("a|b=own.py:Darker", r"NAME starts with .* without \|"),
        ("_=own.py:Darker", "NAME starts with a letter or digit"),  # its folder would be the seed's
        ("./_=own.py:Darker", "NAME starts with a letter or digit"),
        (f"{'A' * 61}=own.py:Darker", "at most 60 characters"),
        ("A=own.py", "give NAME=FILE.py:CLASS"),
        ("A=none.py:Darker", "none.py: there is no such module"),
        ("A=own.py:None_", "--row A: None_ of own.py raised KeyError: 'None_'"),
        ("A=broken.py:Darker", "Darker of broken.py raised SyntaxError"),
        ("A=own.py:Needs", "raised TypeError"),
        ("A=own.py:Half", r"returns \(3, 3, 16, 16\) for \(3, 3, 32, 32\): return a tensor"),
        ("A=own.py:Numbers", "returns ndarray for"),
        ("A=own.py:Bright", r"returns 0.\d+ to 2: keep values in \[-1, 1\]"),
        ("A=own.py:NotANumber", "returns nan to nan"),
        ("A=own.py:Secretly", "set stochastic = True"),
        ("A=own.py:Average", "treat each face by itself"),
        ("A=own.py:Fixed", "raised IndexError"),  # on frames it meets faces of other sizes
        ("A=own.py:Other", "has .size 64, but faces are 32 px: see --face_size"),
        ("A=own.py:Text", "has .size '32', but faces are 32 px"),
        ("A=own.py:Functions", r"has a state_dict\(\) that a checkpoint cannot restore: give"),
        ("A=own.py:Forgetful", "and a load_state_dict that takes them"),
    ],
)
def test_an_own_anonymizer_that_cannot_be_a_row(tmp_path, monkeypatch, text, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("class Darker(:")
    with pytest.raises(DataError, match=sentence) as caught:
        evaluate.read_own_row(text, 32)
    assert "\n" not in str(caught.value)


def made_up(mAP, own, lip):
    error = dict.fromkeys((*evaluate.ATTACKERS, "strongest", "probe_vs_original"), 0.1) | {
        "own": own
    }
    return {
        "name": "Edge",
        "seed": 0,
        "mAP": mAP,
        "AP": {"Lip": lip, "Photo": 1.0},
        "verification_error": error,
        "structure": {"l1": own / 2, "landmark_error": 0.25},
        "attacks": {"of": own},
    }


def test_summary_by_hand():
    row = evaluate.summarize(
        [made_up(0.5, 0.2, 0.0), made_up(0.7, 0.3, 0.5), made_up(0.6, 0.1, 1.0)]
    )
    assert row["name"] == "Edge"
    # n - 1
    assert row["mAP"] == {
        "mean": pytest.approx(0.6),
        "std": pytest.approx(0.1),
        "per_seed": [0.5, 0.7, 0.6],
    }
    assert row["verification_error"]["own"] == {
        "mean": pytest.approx(0.2),
        "std": pytest.approx(0.1),
        "per_seed": [0.2, 0.3, 0.1],
    }
    assert row["verification_error"]["strongest"]["std"] == pytest.approx(0, abs=1e-12)
    assert row["AP"] == {"Lip": pytest.approx(0.5), "Photo": 1.0}
    assert row["structure"] == {"l1": pytest.approx(0.1), "landmark_error": 0.25}
    assert row["attacks"] == [{"of": 0.2}, {"of": 0.3}, {"of": 0.1}]
    assert row["made_with"] == [None, None, None]  # rows of before this was kept


def test_structure_is_averaged_over_the_seeds_that_have_it():
    def row(**structure):
        return {"name": "A", "mAP": 1.0, "AP": {}, "verification_error": {}, "attacks": []} | {
            "structure": structure
        }

    one = evaluate.summarize([row(l1=1.0, mtcnn_found=0.5, mtcnn_landmarks=None), row(l1=2.0)])
    assert one["structure"] == {"l1": 1.5}  # the second seed was judged without MTCNN's weights
    seeds = [row(mtcnn_landmarks=value) for value in (None, 0.1, 0.3)]
    assert evaluate.summarize(seeds)["structure"] == {"mtcnn_landmarks": pytest.approx(0.2)}
    assert evaluate.summarize(seeds[:1])["structure"] == {"mtcnn_landmarks": None}


def test_without_mtcnns_weights_nothing_stops_and_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PPAD_WEIGHTS", str(tmp_path))
    evaluate.face_finder.cache_clear()
    assert evaluate.face_finder() is None and evaluate.face_finder() is None
    evaluate.face_finder.cache_clear()
    said = capsys.readouterr().err
    assert said.count("mtcnn_found and mtcnn_landmarks are left out: no MTCNN weights at") == 1
    assert "get_weights.py" in said


def test_summary_of_one_seed_has_no_spread():
    row = evaluate.summarize([made_up(0.5, 0.2, 0.0)])
    assert row["mAP"] == {"mean": 0.5, "std": 0.0, "per_seed": [0.5]} and not math.isnan(
        row["AP"]["Lip"]
    )
