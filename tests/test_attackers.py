"""Attackers: what they train on, that they learn, that they change nobody else; `verify`."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from ppad import attackers, players
from ppad.baselines import make_baseline
from ppad.crop_sampler import recognizer_input, template
from ppad.datasets import FaceSet, Pairs, toy_faces
from ppad.loop import Loop, read_checkpoint, read_log
from ppad.players import aligned_crops


def all_pairs(identities, folds=4):
    """Every pair of a set, dealt out to folds in turn."""
    first, second = torch.triu_indices(len(identities), len(identities), 1)
    return Pairs(
        first, second, identities[first] == identities[second], torch.arange(len(first)) % folds
    )


class Flat(nn.Module):
    """A recognizer that sees every pixel and forgets nothing."""

    def forward(self, crops):
        return crops.flatten(1)


# ------------------------------------------------------------------ networks


def test_plain_recognizer_shapes():
    plain = attackers.PlainRecognizer(width=4, embedding=7, identities=5)
    assert plain(torch.randn(2, 3, 28, 24)).shape == (2, 7)
    assert plain.loss(torch.randn(2, 3, 28, 24), torch.tensor([0, 4])).shape == ()


def test_landmark_reader_answers_in_pixels():
    reader = attackers.LandmarkReader(32).eval()
    points = reader(torch.zeros(2, 3, 32, 32))
    assert points.shape == (2, 5, 2)
    nn.init.zeros_(reader.body[-1].weight), nn.init.zeros_(reader.body[-1].bias)
    # starts from the middle
    assert torch.equal(reader(torch.zeros(2, 3, 32, 32)), torch.full((2, 5, 2), 16.0))
    maps = torch.zeros(1, 5, 4, 4)
    maps[..., 1, 3] = 99  # the cell in row 1 and column 3, of 8 px each
    reader.body = nn.Identity()
    assert torch.allclose(reader(maps), torch.tensor([28.0, 12.0]))  # x, y


# ------------------------------------------------------------------ structure


class TrueReader(nn.Module):
    def __init__(self, faces, offset=0.0):
        super().__init__()
        self.landmarks = faces.landmarks
        self.offset = offset
        self.at = 0

    def forward(self, pictures):
        points = self.landmarks[self.at : self.at + len(pictures)]
        self.at += len(pictures)
        eyes = (points[:, 1] - points[:, 0]).norm(dim=1)
        return points + self.offset * eyes[:, None, None] * torch.tensor([1.0, 0.0])


def test_structure_of_originals_is_whole(tiny, tiny_faces):
    originals, _, _ = tiny_faces.batch(torch.arange(len(tiny_faces)))
    assert attackers.structure(
        originals, tiny_faces, TrueReader(tiny_faces), tiny(eval_batch=5)
    ) == {"l1": 0, "landmark_error": 0, "outside_gradient": 1}


def test_structure_is_in_eye_distances_and_in_the_range_of_eq_3(tiny, tiny_faces):
    originals, _, _ = tiny_faces.batch(torch.arange(len(tiny_faces)))
    report = attackers.structure(
        originals - 0.25, tiny_faces, TrueReader(tiny_faces, 0.4), tiny(eval_batch=5)
    )
    wanted = {"l1": 0.25, "landmark_error": 0.4, "outside_gradient": 1}
    assert report == pytest.approx(wanted, rel=1e-4)


def structure_of(anonymizer, tiny_faces, tiny):
    pictures, _, _ = tiny_faces.batch(torch.arange(len(tiny_faces)))
    return attackers.structure(anonymizer(pictures), tiny_faces, TrueReader(tiny_faces), tiny())


def test_gradient_energy_counts_what_lies_outside_the_face_box(tiny, tiny_faces):
    """The box is the middle 20 of 32 pixels; half the contrast is a quarter of the energy."""

    def mask_face(pictures):
        pictures[:, :, 6:26, 6:26] = 0
        return pictures

    def mask_rest(pictures):
        rest = torch.ones(32, 32)
        rest[6:26, 6:26] = 0
        return torch.where(rest.bool(), 0.0, pictures)

    inside = structure_of(mask_face, tiny_faces, tiny)["outside_gradient"]
    assert 0.8 < inside < 1.5  # only the box's own edge differs
    assert structure_of(mask_rest, tiny_faces, tiny)["outside_gradient"] < 0.5
    half = structure_of(lambda pictures: pictures / 2, tiny_faces, tiny)["outside_gradient"]
    assert half == pytest.approx(0.25, rel=1e-4)


def test_spread_is_zero_if_all_get_one_face(tiny):
    def spread_of(anonymizer):
        return attackers.spread(anonymizer, 0, range(4), tiny())

    assert spread_of(lambda pictures: pictures) == 1
    assert spread_of(lambda pictures: pictures[:1].expand_as(pictures)) == 0
    assert spread_of(lambda pictures: pictures / 2) == pytest.approx(0.5, rel=1e-4)
    # what is the same for all people, the pose, counts for nothing
    assert spread_of(lambda pictures: pictures.mean(0, keepdim=True).expand_as(pictures)) < 1e-6


class Finder:
    """Finds a face where the middle pixel is bright, its landmarks by how bright it is."""

    def find(self, frames):
        found = []
        for frame in frames:
            side = len(frame)
            level = int(frame[side // 2, side // 2, 0])
            shown = level > 100
            boxes = torch.tensor([[0.0, 0.0, side / 4, side / 4], [1.0, 1.0, side - 1, side - 1]])
            landmarks = torch.full((2, 5, 2), float(level))
            landmarks[0] = 7  # a face in the corner, the surer one
            found.append({"boxes": boxes[: 1 + shown], "landmarks": landmarks[: 1 + shown]})
        return found


def test_faces_found_again_are_counted_among_those_found_before(tiny):
    gray = torch.tensor([200, 200, 200, 50.0])[:, None, None, None] / 127.5 - 1
    points = torch.zeros(4, 5, 2)
    points[:, 1, 0] = 4.0  # px between the eyes
    before = gray.expand(4, 3, 8, 8)
    faces = FaceSet(((before + 1) * 127.5).round().byte(), points, torch.arange(4), list("abcd"))
    after = before.clone()
    after[0] -= 16 / 127.5  # level 184: 8 px of the picture as MTCNN sees it, enlarged
    after[1] = -1  # lost
    after[3] = 1  # never found before, so it counts for nothing
    report = attackers.found_again(after, faces, Finder(), tiny(eval_batch=3))
    moved = 2**0.5 * 16 / attackers.ENLARGED / 4  # of the first; the third stays
    wanted = {"mtcnn_found": 2 / 3, "mtcnn_landmarks": moved / 2}
    assert report == pytest.approx(wanted, abs=1e-3)
    lost = attackers.found_again(torch.full_like(after, -1.0), faces, Finder(), tiny())
    assert lost == {"mtcnn_found": 0, "mtcnn_landmarks": None}


# ------------------------------------------------------------------ features


def test_embedding_is_of_the_crop_and_of_its_mirror(tiny, tiny_faces):
    config = tiny(eval_batch=3)
    pictures, landmarks, _ = tiny_faces.batch(torch.arange(7))
    features = attackers.embed(Flat(), pictures, landmarks, config)
    crops = aligned_crops(pictures, landmarks, (28, 24))
    torch.testing.assert_close(
        features, torch.cat([crops.flatten(1), crops.flip(3).flatten(1)], 1), atol=1e-5, rtol=0
    )


def test_embedding_is_in_eval_mode_and_leaves_the_mode_as_it_was(tiny, tiny_faces):
    pictures, landmarks, _ = tiny_faces.batch(torch.arange(4))
    plain = attackers.PlainRecognizer(4, 7, 5).train()
    before = copy.deepcopy(plain.state_dict())
    whole = attackers.embed(plain, pictures, landmarks, tiny())
    assert plain.training and not whole.requires_grad
    # batch norm did not count
    assert all(torch.equal(before[key], value) for key, value in plain.state_dict().items())
    torch.testing.assert_close(
        whole[:1], attackers.embed(plain, pictures[:1], landmarks[:1], tiny())
    )
    assert (
        not attackers.embed(plain.eval(), pictures, landmarks, tiny()).requires_grad
        and not plain.training
    )


def test_repainted_set_is_in_order(tiny, tiny_faces):
    pictures, _, _ = tiny_faces.batch(torch.arange(len(tiny_faces)))
    darker = attackers.RepaintedFaces(tiny_faces, lambda x: x / 2 - 0.5, tiny(eval_batch=5))
    assert len(darker) == len(tiny_faces)
    torch.testing.assert_close(darker.floats()[:], pictures / 2 - 0.5, atol=1.001 / 255, rtol=0)
    same = attackers.RepaintedFaces(tiny_faces, lambda x: x, tiny(eval_batch=5))
    assert torch.equal(same.floats()[:], pictures)  # 8 bits lose nothing of 8 bits


# ------------------------------------------------------------------ verification


def test_verify_separable_features():
    identities = torch.arange(5).repeat_interleave(4)
    features = torch.eye(5)[identities] + 0.01 * torch.randn(
        20, 5, generator=torch.Generator().manual_seed(0)
    )
    report = attackers.verify(features, features, all_pairs(identities))
    assert report == {"error": 0.0, "auc": 1.0, "eer": 0.0, "tar_at_far_1e-3": 1.0}


def test_verify_random_features():
    """As many same pairs as different ones, random features: half wrong, within four sigma."""
    features = torch.randn(1200, 16, generator=torch.Generator().manual_seed(0))
    count = 600
    pairs = Pairs(
        torch.arange(count),
        torch.arange(count) + count,
        torch.arange(count) % 2 == 0,
        torch.arange(count) // 60,
    )
    report = attackers.verify(features, features, pairs)
    assert report["error"] == pytest.approx(0.5, abs=0.08) and report["auc"] == pytest.approx(
        0.5, abs=0.08
    )
    assert report["eer"] == pytest.approx(0.5, abs=0.08) and report["tar_at_far_1e-3"] < 0.05


def test_verify_takes_the_first_of_a_pair_from_first_and_the_second_from_second():
    identities = torch.arange(5).repeat_interleave(4)
    good = torch.eye(5)[identities]
    noise = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    pairs = all_pairs(identities)
    swapped = Pairs(pairs.second, pairs.first, pairs.same, pairs.folds)
    # first ones among the first ten, second ones not
    across = (pairs.first < 10) & (pairs.second >= 10)
    half = Pairs(pairs.first[across], pairs.second[across], pairs.same[across], pairs.folds[across])
    mixed = torch.cat([good[:10], noise[10:]]), torch.cat([noise[:10], good[10:]])
    # only the sound half is ever looked at
    assert attackers.verify(*mixed, half) == attackers.verify(good, good, half)
    assert attackers.verify(good, noise, pairs)["error"] == pytest.approx(
        attackers.verify(noise, good, swapped)["error"]
    )


def test_aligning_twice_ruins_an_intact_recognizer(tiny):
    """A recognizer that reads the crop's middle is perfect, until the crop is cut twice."""
    generator = torch.Generator().manual_seed(0)
    count = 60
    people = 6
    identities = torch.arange(people).repeat_interleave(count // people)
    # who it is: the color of the nose
    colors = torch.rand(people, 3, generator=generator)[identities] * 255
    images = (torch.rand(count, 3, 64, 64, generator=generator) * 255).byte()  # and nothing else
    landmarks = (template((28, 24)) + torch.tensor([30.0, 30.0])).repeat(count, 1, 1)
    x, y = landmarks[0, 2].round().int().tolist()
    images[:, :, y - 3 : y + 3, x - 3 : x + 3] = colors[:, :, None, None].byte()
    row, column = template((28, 24))[2].flip(0).int().tolist()

    class Nose(nn.Module):
        def forward(self, crops):
            return crops[:, :, row - 1 : row + 2, column - 1 : column + 1].mean((2, 3))

    pictures = FaceSet(images, landmarks, identities, []).batch(torch.arange(count))[0]
    pairs = all_pairs(identities)
    config = tiny(recognizer_height=28, recognizer_breadth=24)
    good, bad = (
        attackers.embed(Nose(), pictures, landmarks, config, align_twice=twice)[:, :3]
        for twice in (False, True)
    )
    good = attackers.verify(good, good, pairs)
    bad = attackers.verify(bad, bad, pairs)
    assert good["auc"] > 0.99 and good["error"] < 0.02
    assert bad["auc"] < 0.7


# ------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def plain_people():
    """Four people who differ in one flat color; nothing could be easier to learn."""
    colors = torch.tensor([[220, 40, 40], [40, 220, 40], [40, 40, 220], [200, 200, 60]])
    identities = torch.arange(4).repeat_interleave(8)
    images = colors[identities][:, :, None, None].expand(-1, 3, 32, 32).float()
    images = (
        (images + 25 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)))
        .clamp(0, 255)
        .byte()
    )
    landmarks = (template((28, 24)) + torch.tensor([4.0, 2.0])).repeat(len(identities), 1, 1)
    return FaceSet(images, landmarks, identities, [f"{i}" for i in range(len(identities))])


def make_recognizer(kind, config, seed=0):
    torch.manual_seed(seed)
    return (
        attackers.PlainRecognizer(4, 8, 4)
        if kind == "plain"
        else players.make_recognizer(config, 4)
    )


def train(kind, faces, config, folder, steps=60, seed=0, **more):
    recognizer = make_recognizer(kind, config, seed)
    config = dataclasses.replace(config, pretrain_recognizer_batch=8)
    loop = Loop(folder, "attacker", 3, {}, config.log_every, more.pop("seconds", 1e9))
    return attackers.train_recognizer(recognizer, faces, config, steps, loop, 1, **more)


@pytest.mark.parametrize("kind", ["plain", "angular"])
def test_training_learns_an_easy_problem(tiny, plain_people, tmp_path, kind):
    config = tiny(log_every=20)
    pictures, landmarks, identities = plain_people.batch(torch.arange(len(plain_people)))
    trained = train(kind, plain_people, config, tmp_path)
    assert not trained.training
    features = attackers.embed(trained, pictures, landmarks, config)
    assert attackers.verify(features, features, all_pairs(identities))["error"] < 0.02
    log = read_log(tmp_path / "log.jsonl")
    assert (
        [line["step"] for line in log] == [20, 40, 60]
        and log[-1]["loss"] < 0.8 * math.log(4)
        and log[-1]["loss"] < 0.9 * log[0]["loss"]
    )


def test_learning_rate_falls_along_a_cosine(tiny, plain_people, tmp_path):
    train("plain", plain_people, tiny(), tmp_path, steps=10)
    group = read_checkpoint(tmp_path / "checkpoint.pt")["parts"]["optimizer"]["param_groups"][0]
    assert group["lr"] == pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi * 9 / 10)))


def test_margin_goes_on_where_it_was(tiny, plain_people, tmp_path):
    """An attacker who starts from a trained D must not set lambda back to its beginning."""
    recognizer = make_recognizer("angular", tiny())
    recognizer.margin.step += 500
    loop = Loop(tmp_path, "attacker", 3, {})
    attackers.train_recognizer(recognizer, plain_people, tiny(), 4, loop, 1)
    assert int(recognizer.margin.step) == 504


def test_attacker_trains_on_the_anonymizers_output_and_leaves_it_alone(
    tiny, plain_people, tmp_path
):
    config = tiny()
    seen = []
    torch.manual_seed(0)
    modifier = players.make_modifier(config)
    before = copy.deepcopy(modifier.state_dict())

    def spy(pictures):
        seen.append((pictures.shape, torch.is_grad_enabled()))
        return modifier(pictures)

    train("angular", plain_people, config, tmp_path, steps=3, anonymizer=spy)
    assert seen == [((8, 3, 32, 32), False)] * 3
    assert all(torch.equal(before[key], value) for key, value in modifier.state_dict().items())
    assert all(p.grad is None for p in modifier.parameters())


def test_attacker_cannot_learn_from_a_mask(tiny, plain_people, tmp_path):
    trained = train("plain", plain_people, tiny(), tmp_path, anonymizer=make_baseline("Masked"))
    pictures, landmarks, _ = plain_people.batch(torch.arange(4))
    features = attackers.embed(trained, make_baseline("Masked")(pictures), landmarks, tiny())
    torch.testing.assert_close(features, features[:1].expand_as(features))


class PowerCut(Exception):
    pass


@pytest.mark.parametrize(
    "kind, row", [("angular", None), ("plain", None), ("angular", "Noise(0.1)")]
)
def test_training_cut_and_resumed_equals_unbroken(tiny, plain_people, tmp_path, kind, row):
    config = tiny(landmark_jitter=1.0, color_jitter=0.2)

    class Cut:
        """The anonymizer of a run that loses power at its fourth step."""

        def __init__(self, inside, at):
            self.inside = inside
            self.at = at
            self.calls = 0

        def __call__(self, pictures):
            self.calls += 1
            if self.calls == self.at:
                raise PowerCut
            return self.inside(pictures)

        def __getattr__(self, name):
            return getattr(self.__dict__["inside"], name)

    def anonymizer(at=None):
        return Cut(make_baseline(row or "Un-anonymized"), at)

    whole = anonymizer()
    unbroken = train(
        kind, plain_people, config, tmp_path / "a", steps=6, anonymizer=whole, seconds=0
    )
    with pytest.raises(PowerCut):
        train(
            kind, plain_people, config, tmp_path / "b", steps=6, anonymizer=anonymizer(4), seconds=0
        )
    rest = anonymizer()
    resumed = train(
        kind, plain_people, config, tmp_path / "b", steps=6, seed=99, anonymizer=rest, seconds=0
    )
    assert rest.calls == 3
    for key, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    a, b = (read_checkpoint(tmp_path / name / "checkpoint.pt")["parts"] for name in "ab")
    for number, moments in a["optimizer"]["state"].items():
        assert all(
            torch.equal(value, b["optimizer"]["state"][number][key])
            for key, value in moments.items()
        )
    assert (tmp_path / "a/log.jsonl").read_text() == (tmp_path / "b/log.jsonl").read_text()
    if row:
        assert whole.inside.calls == rest.inside.calls == 6


# ------------------------------------------------------------------ each picture is repainted once


class SwapColors:
    """RGB to BGR: gray levels stay gray levels, so that nothing is lost by keeping 8 bits."""

    def __init__(self):
        self.pictures = 0

    def __call__(self, pictures):
        self.pictures += len(pictures)
        return pictures.flip(1)


def trained_directly(recognizer, anonymizer, faces, config, folder):
    """The `retrained` attacker with M called at every step."""
    loop = Loop(folder, "attacker", 0, {})
    attacker = copy.deepcopy(recognizer)
    steps = config.attack_steps
    return attackers.train_recognizer(attacker, faces, config, steps, loop, 1, anonymizer)


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_retrained_attacker_repaints_each_picture_and_mirror_once(
    tiny, tiny_faces, tmp_path, jitter
):
    """And ends as if M had been called at every step: to the last bit where pictures are kept."""
    config = tiny(attack_steps=20, landmark_jitter=jitter, color_jitter=0.2)
    recognizer = players.make_recognizer(config, 6)
    swap = SwapColors()
    loop = Loop(tmp_path / "kept", "attacker", 0, {})
    kept = attackers.train_attacker(recognizer, swap, tiny_faces, config, loop)
    assert swap.pictures == 2 * len(tiny_faces) == 48 < 20 * config.pretrain_recognizer_batch
    left = {path.name for path in (tmp_path / "kept").iterdir()}
    assert left <= {"checkpoint.pt", "checkpoint.prev.pt", "log.jsonl"}
    direct = trained_directly(recognizer, swap, tiny_faces, config, tmp_path / "direct")
    for key, value in direct.state_dict().items():
        if jitter:
            assert torch.equal(kept.state_dict()[key], value), key
        else:  # crops are kept, whose rounding Adam's first steps make as large as a step
            assert (kept.state_dict()[key] - value).abs().max() < 20e-3, key


def test_kept_crops_are_those_of_the_repainted_faces_to_half_a_gray_level(tiny, tiny_faces):
    config = tiny()
    torch.manual_seed(0)
    modifier = players.make_modifier(config).eval()  # not the same for a face and its mirror image
    kept = attackers.RepaintedFaces(
        tiny_faces, modifier, config, "cpu", mirrored=True, aligned=True
    )
    indices = torch.tensor([3, 0, 17, 9])
    mirror = torch.tensor([False, True, True, False])
    crops, _, identities = kept.batch(indices, mirror)
    pictures, landmarks, people = tiny_faces.batch(indices, mirror)
    with torch.no_grad():
        wanted = aligned_crops(modifier(pictures), landmarks, (28, 24))
    error = (recognizer_input(crops) - wanted).abs().max()
    assert 0 < error <= 1.001 / 256  # half of one of D's gray levels, 1 / 128
    assert torch.equal(identities, people) and crops.shape == (4, 3, 28, 24)


def test_an_anonymizer_that_draws_anew_is_called_at_every_step(tiny, tiny_faces, tmp_path):
    config = tiny(attack_steps=5)
    noise = make_baseline("Noise(0.1)")
    recognizer = players.make_recognizer(config, 6)
    loop = Loop(tmp_path, "attacker", 0, {})
    attackers.train_attacker(recognizer, noise, tiny_faces, config, loop)
    assert noise.calls == 5


def test_a_trained_attacker_is_read_and_repaints_nothing(tiny, tiny_faces, tmp_path):
    config = tiny()
    recognizer = players.make_recognizer(config, 6)

    def attacker(anonymizer):
        loop = Loop(tmp_path, "attacker", 0, {})
        return attackers.train_attacker(recognizer, anonymizer, tiny_faces, config, loop)

    first = attacker(SwapColors())
    again = attacker(unused := SwapColors())
    assert unused.pictures == 0
    assert all(
        torch.equal(first.state_dict()[key], value) for key, value in again.state_dict().items()
    )


@pytest.mark.parametrize("train", [attackers.train_attacker, attackers.train_inverter])
def test_attackers_cut_and_resumed_equal_unbroken(tiny, tiny_faces, tmp_path, monkeypatch, train):
    config = tiny(attack_steps=6, invert_steps=6, color_jitter=0.2)
    torch.manual_seed(0)
    modifier = players.make_modifier(config).eval()
    recognizer = [players.make_recognizer(config, 6)] * (train is attackers.train_attacker)

    def trained(folder):
        return train(*recognizer, modifier, tiny_faces, config, Loop(folder, "x", 0, {}, 1, 0))

    unbroken = trained(tmp_path / "unbroken")
    step = attackers.optim.backward_and_step
    left = iter(range(3))

    def cut(*arguments):
        if next(left, None) is None:
            raise PowerCut
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(attackers.optim, "backward_and_step", cut)
        with pytest.raises(PowerCut):
            trained(tmp_path / "cut")
    torch.manual_seed(5)
    resumed = trained(tmp_path / "cut")
    for key, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("unbroken", "cut")]
    assert logs[0] == logs[1]


# ------------------------------------------------------------------ the attacker who inverts


class Dark(nn.Module):
    """A recognizer that sees how dark the dark pixels are; no other is known to it."""

    def forward(self, crops):
        return torch.relu(-crops).flatten(1)


def test_what_can_be_inverted_is_undone_and_a_mask_is_not(tmp_path, tiny):
    """Washed-out pictures hold all that `Dark` needs and show it nothing; black ones hold none."""
    config = tiny(modifier_width=8, batch_faces=8, invert_steps=120)
    people = toy_faces(0, range(20), 8, 32)
    others = toy_faces(0, range(20, 28), 4, 32)
    pairs = all_pairs(others.identities)

    def auc(pictures):
        features = attackers.embed(Dark(), pictures, others.landmarks, config)
        return attackers.verify(features, features, pairs)["auc"]

    def before_and_after(anonymizer, name):
        loop = Loop(tmp_path / name, name, 0, {}, 20)
        inverter = attackers.train_inverter(anonymizer, people, config, loop)
        assert not inverter.training and not any(p.requires_grad for p in inverter.parameters())
        modified = attackers.RepaintedFaces(others, anonymizer, config)
        restored = attackers.RepaintedFaces(modified, inverter, config)
        return auc(modified.floats()), auc(restored.floats())

    originals = auc(others.floats())
    hidden, undone = before_and_after(lambda faces: 0.8 + 0.2 * faces, "washed out")
    assert originals > 0.7 and hidden == 0.5 and undone > originals - 0.05
    hidden, undone = before_and_after(make_baseline("Masked"), "masked")
    assert hidden == 0.5 and undone < 0.6


def test_retrained_attacker_starts_from_D_and_leaves_D_alone(tiny, tiny_faces, tmp_path):
    config = tiny()
    torch.manual_seed(0)
    recognizer = players.make_recognizer(config, 6)
    recognizer.margin.step += 9
    before = copy.deepcopy(recognizer.state_dict())
    attacker = attackers.train_attacker(
        recognizer,
        make_baseline("Noise(0.1)"),
        tiny_faces,
        config,
        Loop(tmp_path, "attacker", 0, {}),
    )
    assert attacker is not recognizer and recognizer.training
    assert all(torch.equal(before[key], value) for key, value in recognizer.state_dict().items())
    assert all(p.grad is None for p in recognizer.parameters())
    moved = [
        key for key, value in attacker.state_dict().items() if not torch.equal(before[key], value)
    ]
    assert len(moved) > len(before) / 2 and int(attacker.margin.step) == 9 + config.attack_steps
    gap = max(
        float((before[key] - value).abs().max())
        for key, value in attacker.state_dict().items()
        if key != "margin.step"
    )
    assert gap < 1e-3 * (config.attack_steps + 1)  # a few Adam steps away from D's weights


def test_judges_are_trained_on_originals_and_resume(tiny, tiny_faces, tmp_path):
    config = tiny()

    for name, train, steps in (
        ("other", attackers.train_other, config.attack_steps),
        ("reader", attackers.train_landmark_reader, config.landmark_steps),
    ):
        torch.manual_seed(1)
        one = train(tiny_faces, config, Loop(tmp_path / name, name, 0, {}, 1))
        torch.manual_seed(2)  # the loop's seed makes the judge, not what came before
        fresh = train(tiny_faces, config, Loop(tmp_path / f"{name} again", name, 0, {}, 1))
        read = train(tiny_faces, config, Loop(tmp_path / name, name, 0, {}, 1))
        assert not one.training and read_checkpoint(tmp_path / name / "checkpoint.pt")["done"] == {
            "train": steps
        }
        for key, value in one.state_dict().items():
            assert torch.equal(value, read.state_dict()[key]) and torch.equal(
                value, fresh.state_dict()[key]
            )


def test_landmark_reader_learns_from_originals(tiny, tiny_faces, tmp_path):
    attackers.train_landmark_reader(
        tiny_faces, tiny(landmark_steps=60), Loop(tmp_path, "reader", 0, {}, 1)
    )
    px = [line["loss"] for line in read_log(tmp_path / "log.jsonl")]
    assert sum(px[-10:]) < 0.8 * sum(px[:10])
