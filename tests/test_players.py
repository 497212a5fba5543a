"""The players: D with its margin, what D is shown, networks on disk."""

import pytest
import torch

from ppad import players
from ppad.crop_sampler import template
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
    detector = players.make_detector(tiny(frame_height=96, frame_width=128), 3)
    assert (detector.config.classes, detector.config.min_size, detector.config.max_size) == (
        3,
        96,
        128,
    )


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
    players.save_players(path, {"face_size": 32}, {"recognizer": recognizer.state_dict()})
    saved = players.load_players(path)
    assert saved["config"] == {"face_size": 32}
    again = players.make_recognizer(tiny(), 6)
    again.load_state_dict(saved["parts"]["recognizer"])
    for (name, value), other in zip(recognizer.state_dict().items(), again.state_dict().values()):
        whole = value.half().float() if value.is_floating_point() else value
        assert torch.equal(other, whole), name
    assert [file.name for file in tmp_path.iterdir()] == ["players.pt"]


def test_a_file_that_holds_no_players_is_named(tmp_path):
    with pytest.raises(LoopError, match=r"players\.pt does not exist: run ppad.reproduce first"):
        players.load_players(tmp_path / "players.pt")
    (tmp_path / "players.pt").write_bytes(b"half")
    with pytest.raises(LoopError, match=r"players\.pt cannot be read"):
        players.load_players(tmp_path / "players.pt")
