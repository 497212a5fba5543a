"""The players: D with its margin, what D is shown, networks on disk."""

import itertools
import math

import pytest
import torch
from torch import nn

from ppad import config as presets
from ppad import loop, players
from ppad.crop_sampler import similarity, template
from ppad.loop import LoopError
from ppad.players import aligned_crops, jitter_colors, jitter_landmarks

# ------------------------------------------------------------------ D


def test_the_loss_of_D_is_its_heads_and_its_margins(tiny):
    torch.manual_seed(0)
    recognizer = players.make_recognizer(tiny(), 6)
    crops = torch.randn(4, 3, 28, 24)
    people = torch.tensor([0, 1, 5, 5])
    features = recognizer(crops)
    assert features.shape == (4, 16)
    cosines, norms = recognizer.head(features)
    each = recognizer.margin(cosines, norms, people, reduction="none")
    torch.testing.assert_close(recognizer.loss(crops, people, reduction="none"), each)
    torch.testing.assert_close(recognizer.loss(crops, people), each.mean())
    plain = recognizer.margin(cosines, norms, people, margin=False)
    torch.testing.assert_close(recognizer.loss(crops, people, margin=False), plain)


def test_the_margin_goes_on_where_it_was(tiny):
    """The count of D's updates is in the state dict: a resumed D keeps its lambda."""
    first = players.make_recognizer(tiny(), 6)
    for _ in range(3):
        first.margin.advance()
    second = players.make_recognizer(tiny(), 6)
    second.load_state_dict(first.state_dict())
    assert int(second.margin.step) == 3
    assert second.margin.margin_lambda == first.margin.margin_lambda


def test_players_have_the_sizes_of_the_preset(tiny):
    config = tiny(modifier_match_color=True, recognizer_scale=16.0, detector_body="toy")
    modifier = players.make_modifier(config)
    assert (modifier.size, modifier.config.width, modifier.config.blocks) == (32, 4, 1)
    assert modifier.config.match_color
    recognizer = players.make_recognizer(config, 7)
    assert recognizer.head.weight.shape == (7, config.embedding)
    assert recognizer.network.config.input_size == (28, 24) and recognizer.margin.scale == 16
    detector = players.make_detector(tiny(drawn=False, frame_height=96, frame_width=128), 3)
    assert (detector.config.classes, detector.config.min_size, detector.config.max_size) == (
        3,
        96,
        128,
    )


# ------------------------------------------------------------------ public weights


class FlatPort(nn.Module):
    """SphereFace-20 as the public files name it after Caffe: conv1_1, relu1_1, ..., fc5, fc6."""

    units = (1, 2, 4, 1)

    def __init__(self, width, embedding, left):
        super().__init__()
        channels = 3
        for stage, units in enumerate(self.units, 1):
            for i in range(1, 2 * units + 2):
                out = width * 2 ** (stage - 1)
                self.add_module(f"conv{stage}_{i}", nn.Conv2d(channels, out, 3, 1 + (i == 1), 1))
                self.add_module(f"relu{stage}_{i}", nn.PReLU(out))
                channels = out
        self.fc5 = nn.Linear(channels * left, embedding)
        self.fc6 = nn.Linear(10574, embedding, bias=False)  # (E, 10574), in this port

    def forward(self, x):
        def layer(name, x):
            return getattr(self, f"relu{name}")(getattr(self, f"conv{name}")(x))

        for stage, units in enumerate(self.units, 1):
            x = layer(f"{stage}_1", x)
            for i in range(2, 2 * units + 2, 2):
                x = x + layer(f"{stage}_{i + 1}", layer(f"{stage}_{i}", x))
        return self.fc5(x.flatten(1))


class BlockPort(nn.Module):
    """The same network with its layers in stages and blocks, and no class weights in its file."""

    class Block(nn.Module):
        def __init__(self, planes):
            super().__init__()
            self.conv1 = nn.Conv2d(planes, planes, 3, 1, 1)
            self.prelu1 = nn.PReLU(planes)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1)
            self.prelu2 = nn.PReLU(planes)

        def forward(self, x):
            return x + self.prelu2(self.conv2(self.prelu1(self.conv1(x))))

    def __init__(self, width, embedding, left):
        super().__init__()
        channels = 3
        stages = []
        for stage, units in enumerate(FlatPort.units):
            out = width * 2**stage
            blocks = [self.Block(out) for _ in range(units)]
            stages.append(nn.Sequential(nn.Conv2d(channels, out, 3, 2, 1), nn.PReLU(out), *blocks))
            channels = out
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(channels * left, embedding)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("port", [FlatPort, BlockPort])
@pytest.mark.parametrize("legacy", [True, False], ids=["as of 2017", "as of today"])
def test_both_layouts_of_public_weights_give_their_outputs_to_the_last_bit(
    port, legacy, tiny, tmp_path
):
    torch.manual_seed(0)
    theirs = port(4, 16, 2 * 2)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    state = theirs.state_dict()
    if port is BlockPort:
        state = {f"module.{name}": value for name, value in state.items()}  # DataParallel's names
    path = tmp_path / "sphere20.pth"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    config = tiny(recognizer_depth=20, recognizer_weights=str(path))
    recognizer = players.make_recognizer(config, 6)
    own = recognizer.network.state_dict()
    assert len(own) == 62 and len(state) == 62 + (port is FlatPort)
    for mine, value in zip(own.values(), state.values()):
        assert torch.equal(mine, value)
    crops = torch.randn(3, 3, 28, 24)
    assert torch.equal(recognizer(crops), theirs(crops))
    # A new head, and the margin where the file's training ended.
    assert recognizer.head.weight.shape == (6, 16)
    assert recognizer.margin.margin_lambda == 5
    for _ in range(2000):
        recognizer.margin.advance()
    assert recognizer.margin.margin_lambda == 5
    assert players.make_recognizer(tiny(), 6).margin.margin_lambda == 1000


def test_the_papers_D_has_the_shapes_of_the_public_files():
    """Of FlatPort at full size, whose numbers are the prototype's: 64 to 512 channels, 7x6 left."""
    with torch.device("meta"):
        own = players.make_recognizer(presets.build("paper"), 2).network.state_dict()
        theirs = FlatPort(64, 512, 7 * 6).state_dict()
    assert [value.shape for value in own.values()] == [v.shape for v in theirs.values()][:62]


class Evil:
    def __reduce__(self):
        return eval, ("1 / 0",)


@pytest.mark.parametrize(
    "content, told",
    [
        (None, "does not fit D: give a public PyTorch file"),
        (b"<html>404 Not Found</html>", "does not fit D: give a public PyTorch file"),
        ({"conv1_1.weight": Evil()}, "does not fit D: give a public PyTorch file"),
        ({"epoch": 3}, "does not fit D: give a public PyTorch file"),
        ({"conv1_1.weight": torch.zeros(4, 3, 3, 3)}, "does not fit D: give .* 62 tensors"),
        ("another width", "does not fit D"),
        ("two tensors too many", "does not fit D"),
    ],
)
def test_wrong_recognizer_weights_are_named(content, told, tiny, tmp_path):
    path = tmp_path / "weights.pth"
    if content == "another width":
        content = FlatPort(8, 16, 4).state_dict()
    elif content == "two tensors too many":
        content = {**FlatPort(4, 16, 4).state_dict(), "more": torch.zeros(1)}
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=f"^recognizer_weights {path} {told}") as raised:
        players.make_recognizer(tiny(recognizer_depth=20, recognizer_weights=str(path)), 6)
    assert "\n" not in str(raised.value)


# ------------------------------------------------------------------ what D is shown


def test_aligned_crops_are_BGR_in_Ds_scale():
    red = torch.tensor([1.0, -1.0, 0.5])[None, :, None, None].expand(1, 3, 32, 32)
    landmarks = (template((28, 24)) + torch.tensor([4.0, 2.0]))[None]  # the whole crop lies inside
    crop = aligned_crops(red, landmarks, (28, 24))
    assert crop.shape == (1, 3, 28, 24)
    wanted = torch.tensor([0.5, -1.0, 1.0]) * 127.5 / 128
    torch.testing.assert_close(crop, wanted[None, :, None, None].expand_as(crop))


def test_jitter_is_in_pixels_of_a_crop_of_112():
    template_112 = template((112, 96))
    two_scales = torch.stack([template_112, 3 * template_112])
    landmarks = two_scales.repeat(2000, 1, 1)  # (4000, 5, 2)
    moved = jitter_landmarks(landmarks, 1.5) - landmarks
    assert float(moved[0::2].std()) == pytest.approx(1.5, rel=0.03)
    assert float(moved[1::2].std()) == pytest.approx(4.5, rel=0.03)
    assert jitter_landmarks(landmarks, 0) is landmarks


def test_jitter_of_colors_draws_once_a_picture():
    crops = torch.full((200, 3, 4, 4), 0.5)
    after = jitter_colors(crops, 0.2)
    flat = after.flatten(1)
    # alike in a picture, not between them
    assert (flat == flat[:, :1]).all() and float(flat[:, 0].std()) > 0.05
    assert float(flat.min()) >= 0.5 * 0.8 - 0.2 and float(flat.max()) <= 0.5 * 1.2 + 0.2
    assert float(jitter_colors(torch.ones(50, 3, 2, 2), 0.5).max()) <= 1
    assert jitter_colors(crops, 0) is crops


# ------------------------------------------------------------------ on disk


def test_players_are_kept_in_half_precision(tiny, tmp_path):
    recognizer = players.make_recognizer(tiny(), 6)
    recognizer.margin.advance()
    path = tmp_path / "players.pt"
    loop.save_players(path, {"face_size": 32}, {"recognizer": recognizer.state_dict()})
    saved = loop.read_checkpoint(path)
    assert saved["config"] == {"face_size": 32}
    again = players.make_recognizer(tiny(), 6)
    again.load_state_dict(saved["parts"]["recognizer"])
    for (name, value), other in zip(recognizer.state_dict().items(), again.state_dict().values()):
        whole = value.half().float() if value.is_floating_point() else value
        assert torch.equal(other, whole), name
    assert [file.name for file in tmp_path.iterdir()] == ["players.pt"]


def test_a_file_that_holds_no_players_is_named(tmp_path):
    with pytest.raises(LoopError, match=r"players\.pt does not exist: run ppad.reproduce first"):
        loop.read_checkpoint(tmp_path / "players.pt")
    (tmp_path / "players.pt").write_bytes(b"half")
    with pytest.raises(LoopError, match=r"players\.pt cannot be read"):
        loop.read_checkpoint(tmp_path / "players.pt")


# ---------------------------------------------------------------- an M that is given the person


@pytest.fixture
def exchanger():
    torch.manual_seed(0)
    made = players.Exchanger(32, 5).eval()
    made.meet(torch.randn(7, 5), template((32, 32)) + torch.randn(9, 5, 2))
    return made


def some_faces(count, seed=0):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def some_points(count, seed=0):
    jitter = torch.randn(count, 5, 2, generator=torch.Generator().manual_seed(seed))
    return template((32, 32)) + jitter


def test_the_exchanger_places_in_full_precision(exchanger, monkeypatch):
    """Under autocast a matrix product would move things by half a pixel."""
    read = players.LandmarkReader
    monkeypatch.setattr(read, "forward", lambda reader, faces: some_points(len(faces)))
    faces = some_faces(3)
    layout = torch.zeros(3, 12, 32, 32)
    place = exchanger.place(faces)
    known = exchanger._known(layout, place, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(exchanger.place(faces), place)
        assert torch.equal(exchanger._known(layout, place, 16), known)


def test_moved_is_a_matrix_product():
    points, by = torch.randn(3, 5, 2), torch.randn(3, 2, 3)
    wanted = points @ by[:, :, :2].mT + by[:, None, :, 2]
    torch.testing.assert_close(players.moved(points, by), wanted)
    torch.testing.assert_close(
        players.moved(points[:1], by), points[:1] @ by[:, :, :2].mT + by[:, None, :, 2]
    )


def test_exchanger_paints_an_ellipse_and_leaves_the_rest(exchanger):
    faces = some_faces(3)
    after = exchanger(faces)
    assert after.shape == faces.shape and after.abs().max() <= 1
    torch.testing.assert_close(after[..., 0, 0], faces[..., 0, 0], atol=1e-2, rtol=0)
    ellipses = torch.tensor([[0.0, 0.0, 0.0], [0.07, -0.04, 0.04], [-0.07, 0.04, -0.04]])
    told = (torch.zeros(3, 24, 8, 8), some_points(3), exchanger.others[:3], ellipses)
    mask = exchanger.paste(torch.ones(3, 3, 32, 32), torch.zeros(3, 3, 32, 32), ellipses)
    inside = mask > 0.1
    masked = torch.where(inside, some_faces(3, 1), faces)
    paint_only = mask == 1
    assert (paint_only.float().mean(dim=(1, 2, 3)) > 0.25).all()
    painted = [exchanger.decode(f, *told)[paint_only] for f in (faces, masked)]
    torch.testing.assert_close(*painted, atol=0, rtol=0)  # nothing but the code tells of a face
    around = torch.where(inside, faces, some_faces(3, 1))
    gap = exchanger.decode(around, *told)[paint_only] - painted[0]
    assert gap.abs().max() > 5e-5  # but G sees what is around it
    assert exchanger(faces[:0]).shape == (0, 3, 32, 32)


def test_ellipses_by_hand(exchanger):
    """Half-axes 0.62 and 0.73 of S / 2 about (0, -0.04), then larger, right and down as told."""
    big = players.Exchanger(256, 128)  # px of 1/128
    for larger, right, down in ((0.0, 0.0, 0.0), (0.07, -0.04, 0.03)):
        ellipses = torch.tensor([[larger, right, down]])
        mask = big.paste(torch.ones(1, 3, 256, 256), torch.zeros(1, 3, 256, 256), ellipses)[0, 0]
        rows, columns = (mask >= 0.5).nonzero().unbind(dim=1)
        for cells, middle, half in ((columns, right, 0.62), (rows, down - 0.04, 0.73)):
            first, last = cells.min() / 128 - 1, (cells.max() + 1) / 128 - 1
            assert (first + last) / 2 == pytest.approx(middle, abs=1 / 128)
            assert (last - first) / 2 == pytest.approx(half * (1 + larger), abs=1 / 128)
        area = math.pi * 0.62 * 0.73 * (1 + larger) ** 2 / 4  # of the picture
        assert mask.mean().item() == pytest.approx(area, rel=2e-3)
        edge = ((mask > 0) & (mask < 1)).float().mean().item()
        assert edge == pytest.approx(2 * 0.04 * area, rel=0.05)  # d(pi r^2) = 2 pi r dr


def test_no_two_ellipses_are_alike(exchanger):
    """Evenly, 7 % of the size and 4 % of S / 2: else their place tells who it is."""
    ellipses = exchanger.draw(2000)[3]  # (2000, 3)
    for values, most in zip(ellipses.unbind(dim=1), (0.07, 0.04, 0.04)):
        assert values.abs().max() <= most and values.mean().abs() < most / 20
        assert values.std().item() == pytest.approx(most / 3**0.5, rel=0.05)
    torch.testing.assert_close(torch.corrcoef(ellipses.T), torch.eye(3), atol=0.1, rtol=0)
    assert exchanger.draw_noise(5)[2].unique(dim=0).shape == (5, 3)  # while M learns, as well
    faces = some_faces(2)
    told = (torch.zeros(2, 24, 8, 8), some_points(2), exchanger.others[:2])
    pair = [exchanger.generate(faces, *told, one.expand(2, 3)) for one in ellipses[:2]]
    assert (pair[0] - pair[1]).abs().max() > 0  # G is told where it paints


def test_exchanger_draws_one_of_the_others_for_each_face(exchanger, monkeypatch):
    torch.testing.assert_close(exchanger.others[:7], exchanger.others[7:14])  # of seven people
    monkeypatch.setattr(exchanger, "NOISE", 0.0)
    monkeypatch.setattr(exchanger, "SHIFT", 0.0)
    monkeypatch.setattr(exchanger, "SIZE", 0.0)
    monkeypatch.setattr(exchanger, "ELLIPSE", (0.0, 0.0, 0.0))
    faces = some_faces(2)
    told = (exchanger.encode(faces), exchanger.place(faces))
    drawn = [exchanger(faces) for _ in range(20)]
    middle = torch.zeros(2, 3)
    wanted = [exchanger.decode(faces, *told, e.expand(2, -1), middle) for e in exchanger.others[:7]]
    for after in drawn:
        for i in range(2):
            assert min((after[i] - one[i]).abs().max() for one in wanted) < 1e-6
    assert any((after - drawn[0]).abs().max() > 1e-4 for after in drawn)
    assert exchanger.stochastic


def test_what_was_drawn_once_can_be_used_again(exchanger):
    faces = some_faces(4)
    people, noise, shift, ellipses = exchanger.draw(400)
    assert noise.shape == (400, 24, 8, 8) and shift.shape == (400, 5, 2)
    assert ellipses.shape == (400, 3)
    assert noise.std().item() == pytest.approx(0.5, rel=0.01)
    size = (shift * exchanger.shape).sum(dim=(1, 2))  # px, as the shape is of length 1
    rest = shift - size[:, None, None] * exchanger.shape
    assert size.std().item() == pytest.approx(math.hypot(0.005, 0.02) * 32, rel=0.1)
    assert rest.std().item() == pytest.approx(0.9**0.5 * 0.005 * 32, rel=0.05)
    assert exchanger.draw_noise(400)[1].std().item() == pytest.approx(0.005 * 32, rel=0.05)
    assert len(people.unique(dim=0)) == 7
    one = exchanger.draw(1)
    alone = [exchanger(face[None], one) for face in faces]
    four = [part.repeat(4, *[1] * (part.ndim - 1)) for part in one]
    together = exchanger(faces, four)
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seconds", [0.04, 0.02, math.inf])
def test_a_face_in_a_movie_stays_one_person_and_follows_slowly(exchanger, monkeypatch, seconds):
    """By hand: after 1/25 second 0.8 of the way to a new place is left, 0.5 to a new color."""
    places = itertools.chain([0.0], itertools.repeat(10.0))
    colors = itertools.chain([-1.0], itertools.repeat(1.0))
    shown = []

    def generate(faces, noisy, points, people, ellipses):
        shown.append((noisy, points, people, ellipses))
        return torch.full_like(faces, next(colors))

    monkeypatch.setattr(exchanger, "place", lambda faces: torch.full((1, 5, 2), next(places)))
    monkeypatch.setattr(exchanger, "generate", generate)
    face = some_faces(1)
    last = None
    painted = []
    for _ in range(4):
        after, last = exchanger.next_frame(face, last, seconds)
        painted.append(after)
    for name, index in (("noise", 0), ("person", 2), ("ellipse", 3)):
        assert all(torch.equal(one[index], shown[0][index]) for one in shown), name
    for n, (after, (_, points, _, ellipse)) in enumerate(zip(painted, shown)):
        moved = points - shown[0][1]
        stays = 0.8 ** (25 * seconds * n) if n else 1.0
        torch.testing.assert_close(moved, torch.full((1, 5, 2), 10 * (1 - stays)))
        color = 1 - 2 * 0.5 ** (25 * seconds * n) if n else -1.0
        expected = exchanger.paste(color, face, ellipse)  # around it, no trace
        torch.testing.assert_close(after, expected)


def test_a_first_frame_is_what_a_picture_gets(exchanger):
    face = some_faces(1)
    after, (drawn, _, _) = exchanger.next_frame(face)
    torch.testing.assert_close(after, exchanger(face, drawn))
    again = exchanger.next_frame(face, None)[1][0]
    assert not torch.equal(again[1], drawn[1])  # another person draws anew


def test_fit_is_that_of_the_alignment_and_takes_any_points():
    points = 100 * some_points(6)
    target = 100 * template((112, 96))
    torch.testing.assert_close(
        players.fit(points, target[None]), similarity(points, target), atol=1e-2, rtol=1e-4
    )
    assert players.fit(torch.full((1, 5, 2), 3.0), target[None]).isfinite().all()


def test_the_painted_face_has_everybodys_shape_in_its_own_place(exchanger, monkeypatch):
    turn = torch.tensor([[0.9, -0.5], [0.5, 0.9]])
    shape = template((32, 32)) - template((32, 32)).mean(0)
    exchanger.meet(exchanger.others[:7], torch.stack([shape, 3 * shape + 5]))
    torch.testing.assert_close(exchanger.shape, shape / shape.norm())
    ideal = shape @ turn.T + torch.tensor([14.0, 17.0])
    own = ideal.clone()
    own[2, 0] += 2  # a nose of its own
    read = torch.stack([ideal, own])
    monkeypatch.setattr(exchanger, "locate", nn.Identity())
    placed = exchanger.place(read)
    torch.testing.assert_close(placed[0], ideal, atol=1e-4, rtol=0)
    best = similarity(placed[1:], own)  # no similarity transform brings it nearer
    identity = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    torch.testing.assert_close(best, identity, atol=1e-3, rtol=0)
    turned = similarity(placed[1:], placed[0])
    torch.testing.assert_close(
        placed[1] @ turned[0, :, :2].T + turned[0, :, 2], placed[0], atol=1e-3, rtol=0
    )


def test_the_layout_lies_where_the_landmarks_are(exchanger):
    layout = torch.zeros(1, 12, 32, 32)
    layout[:, 4, 15:17, 15:17] = 1  # in the middle of the face's frame
    turned = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    upright = template((32, 32))
    for side in (16, 32):
        for points in (upright + 3, (upright - 16) @ turned.T + 14):
            known = exchanger._known(layout, points[None], side)
            cells = (torch.arange(side) + 0.5) * 32 / side
            share = known[0, 4] / known[0, 4].sum()
            middle = torch.stack([(share.sum(0) * cells).sum(), (share.sum(1) * cells).sum()])
            torch.testing.assert_close(middle, points.mean(0), atol=1.0, rtol=0)
            spots = known[0, -5:].flatten(1).argmax(1)
            at = torch.stack([cells[spots % side], cells[spots // side]], 1)
            assert (at - points).abs().max() <= 16 / side + 1e-4  # half a cell


def test_nats_are_the_divergence_from_noise_alone(exchanger):
    code = torch.rand(4, 24, 8, 8, dtype=torch.float64)
    told = torch.distributions.Normal(code, exchanger.NOISE)
    nothing = torch.distributions.Normal(torch.zeros_like(code), exchanger.NOISE)
    by_torch = torch.distributions.kl_divergence(told, nothing).sum(dim=(1, 2, 3)).mean()
    torch.testing.assert_close(exchanger.nats(code), by_torch)


def test_the_identity_reaches_every_part_of_the_painting(exchanger):
    people = exchanger.others[:1].clone().requires_grad_()
    code = torch.zeros(1, 24, 8, 8)
    for row, column in ((10, 10), (10, 22), (22, 10), (22, 22)):
        after = exchanger.decode(some_faces(1), code, some_points(1), people, torch.zeros(1, 3))
        (slope,) = torch.autograd.grad(after[0, :, row, column].sum(), people)
        assert slope.abs().max() > 0
