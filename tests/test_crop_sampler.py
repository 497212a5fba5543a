"""crop_sampler against numpy's least squares, per-pixel loops, torch's own resize and numeric
gradients.
"""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ppad import crop_sampler
from ppad.crop_sampler import (
    TEMPLATE_96x112,
    align_faces,
    crop_faces,
    cut_pixels,
    face_squares,
    paste_faces,
    recognizer_input,
    repaint,
    similarity,
    template,
    write_pixels,
)

NO_FACE = torch.zeros(0, 4)


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def turned(points, scale, degrees, shift):
    """Points (5, 2) under a known similarity."""
    angle = math.radians(degrees)
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]],
        dtype=points.dtype,
    )
    return scale * points @ turn.T + torch.tensor(shift, dtype=points.dtype)


def ramp(height, width, dtype=torch.float64):
    """A picture whose red is its own x coordinate and green its y (continuous, scaled to [-1, 1]),
    blue 0.
    """
    x = (torch.arange(width, dtype=dtype) + 0.5) / width * 2 - 1
    y = (torch.arange(height, dtype=dtype) + 0.5) / height * 2 - 1
    return torch.stack(
        [x.expand(height, width), y[:, None].expand(height, width), torch.zeros(height, width)]
    )[None]


@pytest.mark.rubric(
    "aligned faces lie on the template, under the public names",
    points=4,
    hint="off by half a pixel? a pixel's center is i + 0.5, so align_corners=False in grid and "
    "sampler; width / 96 scales x and height / 112 scales y; the crop asks for the inverse "
    "transform; a face is aligned once, not twice. Or a name or a default that other modules use "
    "is missing or changed: keep the starter's signatures",
)
def test_the_public_names_are_there():
    # The last argument's default.
    defaults = {
        "template": (112, 96),
        "align_faces": (112, 96),
        "face_squares": 1.6,
    }
    plain = ("similarity", "recognizer_input", "crop_faces", "paste_faces", "repaint")
    for name in (*plain, "cut_pixels", "write_pixels", *defaults):
        *_, last = inspect.signature(getattr(crop_sampler, name)).parameters.values()
        assert last.default == defaults.get(name, inspect.Parameter.empty), name


# ---- template and similarity ----
@pytest.mark.rubric("aligned faces lie on the template, under the public names")
def test_template_is_the_published_one_and_scales_with_the_frame():
    assert torch.equal(template(), torch.tensor(TEMPLATE_96x112))
    assert TEMPLATE_96x112[0] == (30.2946, 51.6963) and TEMPLATE_96x112[4] == (62.7299, 92.2041)
    assert torch.allclose(template((56, 48)), template() / 2)
    assert torch.allclose(template((224, 96)), template() * torch.tensor([1.0, 2.0]))
    # The half-pixel choice: symmetric about the frame's middle.
    assert abs(template()[:, 0].mean() - 48) < 0.05


@pytest.mark.rubric(
    "similarity is the least-squares fit of all five points",
    points=2,
    hint="write out the normal equations: a = sum(x u + y v) / spread, b = sum(x v - y u) / "
    "spread, of points minus their mean; the sign of b turns the face, and all five points count; "
    "a detach cuts the gradient to the landmarks or to the target; points that coincide, or fit "
    "only a scale of 0, raise ValueError",
    helper="similarity",
)
def test_similarity_matches_numpy_least_squares():
    landmarks = 60 + 30 * rand(4, 5, 2, dtype=torch.float64)
    target = template().double()
    got = similarity(landmarks, target).numpy()
    for points, matrix in zip(landmarks.numpy(), got):
        rows = []
        values = []
        for (x, y), (u, v) in zip(points, target.numpy()):
            rows += [[x, -y, 1, 0], [y, x, 0, 1]]
            values += [u, v]
        a, b, tx, ty = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
        assert np.allclose(matrix, [[a, -b, tx], [b, a, ty]], atol=1e-9)


@pytest.mark.rubric("similarity is the least-squares fit of all five points")
def test_similarity_recovers_a_known_transform():
    target = template().double()
    landmarks = turned(target, 2.5, 35, [40.0, -7.0])
    matrix = similarity(landmarks[None], target)[0]
    assert torch.allclose(landmarks @ matrix[:, :2].T + matrix[:, 2], target, atol=1e-9)
    assert torch.allclose(matrix[0, 0], torch.tensor(math.cos(math.radians(35)) / 2.5).double())
    assert torch.allclose(matrix[1, 0], torch.tensor(-math.sin(math.radians(35)) / 2.5).double())


@pytest.mark.rubric("similarity is the least-squares fit of all five points")
def test_similarity_is_differentiable_in_both():
    landmarks = (50 + 20 * rand(2, 5, 2, dtype=torch.float64)).requires_grad_()
    target = template().double().requires_grad_()
    assert torch.autograd.gradcheck(similarity, (landmarks, target))


@pytest.mark.rubric("similarity is the least-squares fit of all five points")
def test_similarity_refuses_points_without_a_fit():
    angles = torch.arange(5) * 2 * math.pi / 5
    pentagon = 20 * torch.stack([angles.cos(), angles.sin()], 1)
    star = pentagon[[0, 2, 4, 1, 3]]  # no turn brings the pentagon's points nearer to the star's
    for points in (torch.full((5, 2), 7.0), pentagon * float("nan"), pentagon):
        with pytest.raises(ValueError):
            similarity(torch.stack([star, points]), star)
            pytest.fail(f"similarity took {points}")


# ---- align_faces ----
@pytest.mark.rubric("aligned faces lie on the template, under the public names")
def test_landmarks_on_the_template_leave_the_picture_as_it_is():
    # A half-pixel slip (align_corners the wrong way, or pixel-index coordinates) would resample and
    # blur it.
    picture = rand(1, 3, 112, 96)
    assert torch.allclose(align_faces(picture, template()[None]), picture, atol=1e-4)


@pytest.mark.rubric(
    "beyond the picture an aligned face is black",
    points=1,
    hint="a sampler's zero padding is gray in [-1, 1], and a repeated border is not black either: "
    "BLACK is -1",
)
def test_a_whole_pixel_shift_is_exact_and_black_beyond_the_picture():
    picture = rand(1, 3, 112, 96, dtype=torch.float64)
    # Crop pixel = picture + (3, -2).
    out = align_faces(picture, template()[None].double() + torch.tensor([3.0, -2.0]))
    assert torch.allclose(out[:, :, 2:, :-3], picture[:, :, :-2, 3:], atol=1e-5)
    assert torch.allclose(out[:, :, :2], torch.tensor(-1.0).double(), atol=1e-4)
    assert torch.allclose(out[:, :, :, -3:], torch.tensor(-1.0).double(), atol=1e-4)


@pytest.mark.parametrize("scale, degrees", [(1.0, 0), (1.7, 25), (0.8, -140)])
@pytest.mark.rubric("aligned faces lie on the template, under the public names")
def test_a_turned_scaled_face_aligns_onto_the_template(scale, degrees):
    # Each crop pixel of a coordinate ramp tells where in the picture it was taken; compare with the
    # known transform.
    height = 400
    width = 360
    target = template().double()
    middle = torch.tensor([48.0, 56.0]).double()
    shift = [180.3, 200.6]
    landmarks = turned(target - middle, scale, degrees, shift)
    out = align_faces(ramp(height, width), landmarks[None])[0]
    where_x = (out[0] + 1) / 2 * width  # (112, 96)
    where_y = (out[1] + 1) / 2 * height
    for i, j in [(0, 0), (51, 30), (111, 95), (70, 5)]:
        expect = turned(
            torch.tensor([[j + 0.5, i + 0.5]]).double() - middle, scale, degrees, shift
        )[0]
        assert abs(where_x[i, j] - expect[0]) < 1e-3 and abs(where_y[i, j] - expect[1]) < 1e-3


@pytest.mark.rubric("aligned faces lie on the template, under the public names")
def test_each_row_is_aligned_by_its_own_landmarks_at_any_size():
    pictures = rand(2, 3, 60, 50, seed=1)
    landmarks = template((60, 50)) + rand(2, 5, 2, seed=2)
    both = align_faces(pictures, landmarks, (28, 24))
    assert both.shape == (2, 3, 28, 24)
    for i in range(2):
        assert torch.allclose(
            both[i : i + 1],
            align_faces(pictures[i : i + 1], landmarks[i : i + 1], (28, 24)),
            atol=1e-4,
        )
    assert both.min() >= -1 - 1e-6 and both.max() <= 1 + 1e-6


@pytest.mark.rubric(
    "gradients flow through crop and paste",
    points=2,
    hint="a detach, a no_grad or a round cuts the gradient: L_adv reaches M through align_faces, "
    "L_det through paste_faces. A paste into the frames themselves spoils it, too",
    helper="crop_faces paste_faces",
)
def test_align_gradient_is_exact():
    pictures = rand(2, 3, 9, 8, dtype=torch.float64).requires_grad_()
    landmarks = template((9, 8)).double() + 0.5 * rand(2, 5, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: align_faces(p, landmarks, (7, 6)), pictures)


@pytest.mark.rubric(
    "D's input is BGR in D's scale",
    points=1,
    hint="BGR/RGB swapped? SphereFace takes blue first; its scale is (x - 127.5) / 128, ours x / "
    "127.5 - 1",
)
def test_recognizer_input_matches_the_byte_arithmetic():
    levels = torch.tensor([[255.0, 100.0, 0.0]]).view(1, 3, 1, 1)  # R, G, B
    out = recognizer_input(levels / 127.5 - 1).flatten()
    assert torch.allclose(
        out, torch.tensor([(0 - 127.5) / 128, (100 - 127.5) / 128, (255 - 127.5) / 128])
    )


# ---- face_squares ----
@pytest.mark.rubric(
    "face boxes become squares of 1.6 times their longer side",
    points=1,
    hint="a square about the box's center, no whole number in general (no // 2), its side 1.6 "
    "times the longer side of the box, and never clipped: a face at the border is cut like any "
    "other",
)
def test_face_squares_are_about_the_center_and_never_clipped():
    boxes = torch.tensor([[40, 30, 60, 40], [0, 0, 10, 20]])  # whole numbers are fine
    out = face_squares(boxes)
    assert torch.allclose(out, torch.tensor([[34.0, 19.0, 66.0, 51.0], [-11.0, -6.0, 21.0, 26.0]]))
    assert torch.allclose(face_squares(boxes, 1.0)[1], torch.tensor([-5.0, 0.0, 15.0, 20.0]))
    assert face_squares(NO_FACE).shape == (0, 4)
    odd = face_squares(torch.tensor([[0, 0, 5, 3]]))  # center (2.5, 1.5)
    assert torch.allclose(odd, torch.tensor([[-1.5, -2.5, 6.5, 5.5]]))
    fractional = face_squares(torch.tensor([[1.5, 2.0, 12.25, 8.5]]))  # center (6.875, 5.25)
    assert torch.allclose(fractional, torch.tensor([[-1.725, -3.35, 15.475, 13.85]]))


# ---- crop_faces ----
def bilinear_at(picture, x, y):
    """picture (3, H, W) numpy, at continuous (x, y); the border repeats."""
    _, high, wide = picture.shape
    px = min(max(x - 0.5, 0), wide - 1)
    py = min(max(y - 0.5, 0), high - 1)
    x0 = int(px)
    y0 = int(py)
    x1 = min(x0 + 1, wide - 1)
    y1 = min(y0 + 1, high - 1)
    fx = px - x0
    fy = py - y0
    top = picture[:, y0, x0] * (1 - fx) + picture[:, y0, x1] * fx
    bottom = picture[:, y1, x0] * (1 - fx) + picture[:, y1, x1] * fx
    return top * (1 - fy) + bottom * fy


def loop_crop(picture, box, size):
    x1, y1, x2, y2 = box
    nx = math.ceil((x2 - x1) / size)
    ny = math.ceil((y2 - y1) / size)
    out = np.zeros((3, size, size))
    for i in range(size):
        for j in range(size):
            for sy in range(ny):
                for sx in range(nx):
                    x = x1 + (j + (sx + 0.5) / nx) * (x2 - x1) / size
                    y = y1 + (i + (sy + 0.5) / ny) * (y2 - y1) / size
                    out[:, i, j] += bilinear_at(picture, x, y) / (nx * ny)
    return out


BOXES = [
    torch.tensor(b).double().view(-1, 4)
    for b in ([[1, 2, 21, 17], [3.3, 1.2, 7.9, 9.4]], [], [[0, 0, 24, 20]])
]


@pytest.mark.rubric(
    "crop_faces reads the right places",
    points=3,
    hint="off by half a pixel, or by rounded boxes? roi_align needs aligned=True; a crop pixel "
    "that covers several frame pixels is the mean of ceil(side / S) samples along each axis",
    helper="crop_faces",
)
def test_crop_matches_a_per_pixel_loop():
    frames = rand(3, 3, 20, 24, dtype=torch.float64)
    crops = crop_faces(frames, BOXES, 6)
    assert crops.shape == (3, 3, 6, 6)
    expect = [(0, BOXES[0][0]), (0, BOXES[0][1]), (2, BOXES[2][0])]
    for crop, (frame, box) in zip(crops, expect):
        assert np.allclose(crop, loop_crop(frames[frame].numpy(), box.tolist(), 6), atol=1e-9)
    assert crop_faces(frames, [NO_FACE.double()] * 3, 6).shape == (0, 3, 6, 6)


@pytest.mark.rubric("crop_faces reads the right places")
def test_strong_down_scaling_averages():
    # One-pixel stripes, 64 wide to 4: picking single pixels would give -1 or +1, the mean is 0.
    stripes = (torch.arange(64) % 2 * 2.0 - 1).expand(1, 3, 64, 64)
    crop = crop_faces(stripes, [torch.tensor([[0.0, 0.0, 64.0, 64.0]])], 4)
    assert crop.abs().max() < 0.05


# A corner, a side, and one that holds the frame.
OVERHANGING = [[-4.0, -3.5, 8.2, 9.1], [15.5, 6.0, 30.0, 20.5], [-10.0, -12.0, 34.0, 32.0]]


@pytest.mark.rubric("crop_faces reads the right places")
def test_a_crop_over_the_edge_repeats_the_border():
    frames = rand(2, 3, 20, 24, dtype=torch.float64)
    boxes = [BOXES[0], torch.tensor(OVERHANGING).double()]
    crops = crop_faces(frames, boxes, 6)
    for crop, box in zip(crops[2:], OVERHANGING):
        assert np.allclose(crop, loop_crop(frames[1].numpy(), box, 6), atol=1e-9)
    # Those inside their frame do not notice the others.
    assert torch.equal(crops[:2], crop_faces(frames[:1], BOXES[:1], 6))
    far = crop_faces(frames, [NO_FACE, torch.tensor([[-90.0, 3.0, -80.0, 4.0]])], 1)
    assert torch.allclose(far, frames[1, :, 3, 0].view(1, 3, 1, 1))  # the nearest border pixel


@pytest.mark.rubric("gradients flow through crop and paste")
def test_crop_gradient_is_exact():
    frames = rand(2, 3, 7, 8, dtype=torch.float64).requires_grad_()
    boxes = [
        torch.tensor([[0.5, 1.0, 7.7, 6.2], [-2.0, 3.5, 4.0, 9.5]]).double(),
        torch.tensor([[2.0, 2.0, 4.0, 5.0]]).double(),
    ]
    assert torch.autograd.gradcheck(lambda f: crop_faces(f, boxes, 3), frames)


# ---- paste_faces ----
def loop_paste(frames, crops, boxes):
    """v' by a loop over boxes and pixels: a tent as wide as the larger of the two pixel sizes."""
    out = frames.copy()
    k = 0
    size = crops.shape[-1]
    for b, of_frame in enumerate(boxes):
        for x1, y1, x2, y2 in of_frame.tolist():
            for i in range(frames.shape[2]):
                for j in range(frames.shape[3]):
                    if not (x1 <= j + 0.5 < x2 and y1 <= i + 0.5 < y2):
                        continue
                    weights = []
                    for center, low, high in ((i + 0.5, y1, y2), (j + 0.5, x1, x2)):
                        ratio = size / (high - low)
                        at = min(max((center - low) * ratio, 0.5), size - 0.5)
                        w = np.array(
                            [max(0.0, 1 - abs(at - s - 0.5) / max(ratio, 1)) for s in range(size)]
                        )
                        weights.append(w / w.sum())
                    out[b, :, i, j] = np.einsum("h,chw,w->c", weights[0], crops[k], weights[1])
            k += 1
    return out


@pytest.mark.rubric(
    "paste_faces writes in the box and nowhere else",
    points=3,
    hint="paste outside the box? only pixels whose center i + 0.5 lies in it change; where boxes "
    "overlap the later box is on top; a crop larger than its box needs the wider tent. Frames "
    "changed in place? v' is a copy",
    helper="paste_faces",
)
def test_paste_matches_a_per_pixel_loop_with_overlaps():
    frames = rand(3, 3, 20, 24, dtype=torch.float64)
    # Larger than one of the boxes, smaller than the others.
    crops = rand(3, 3, 6, 6, seed=1, dtype=torch.float64)
    for boxes in (BOXES, [NO_FACE, torch.tensor(OVERHANGING), NO_FACE]):
        got = paste_faces(frames, crops, boxes)
        assert np.allclose(got, loop_paste(frames.numpy(), crops.numpy(), boxes), atol=1e-9)
    beyond = [
        torch.tensor([[-9.0, 2.0, -1.0, 9.0], [30.0, 2.0, 40.0, 9.0], [2.0, 21.0, 5.0, 24.0]])
    ]
    assert torch.equal(paste_faces(frames[:1], crops, beyond), frames[:1])
    assert torch.equal(paste_faces(frames, crops[:0], [NO_FACE] * 3), frames)


@pytest.mark.rubric("paste_faces writes in the box and nowhere else")
def test_paste_leaves_the_frames_that_came_in_as_they_are():
    frames = rand(3, 3, 20, 24, dtype=torch.float64)
    before = frames.clone()
    paste_faces(frames, rand(3, 3, 6, 6, seed=1, dtype=torch.float64), BOXES)
    assert torch.equal(frames, before)


@pytest.mark.parametrize("size", [5, 12, 40])
def test_paste_of_a_whole_pixel_box_is_torchs_antialiased_resize(size):
    frames = rand(1, 3, 20, 24)
    crops = rand(1, 3, size, size, seed=1)
    got = paste_faces(frames, crops, [torch.tensor([[3.0, 4.0, 15.0, 16.0]])])
    expect = F.interpolate(crops, (12, 12), mode="bilinear", antialias=True, align_corners=False)
    assert torch.allclose(got[:, :, 4:16, 3:15], expect, atol=1e-5)


@pytest.mark.rubric("paste_faces writes in the box and nowhere else")
def test_crop_then_paste_of_a_whole_pixel_box_is_the_identity():
    frames = rand(2, 3, 20, 24)
    boxes = [
        torch.tensor([[3.0, 2.0, 11.0, 10.0], [16.0, 12.0, 24.0, 20.0]]),
        torch.tensor([[0.0, 0.0, 8.0, 8.0]]),
    ]
    crops = crop_faces(frames, boxes, 8)
    assert (crops[0] - frames[0, :, 2:10, 3:11]).abs().max() < 1e-6
    assert (paste_faces(frames, crops, boxes) - frames).abs().max() < 1e-6


@pytest.mark.rubric("paste_faces writes in the box and nowhere else")
def test_only_pixels_whose_center_is_in_the_box_change():
    frames = rand(1, 3, 9, 9)
    out = paste_faces(frames, torch.full((1, 3, 4, 4), 5.0), [torch.tensor([[2.5, 2.6, 5.5, 6.4]])])
    changed = torch.zeros(9, 9, dtype=torch.bool)
    # x: 2.5 <= center < 5.5 is pixels 2, 3, 4; y: 2.6 ... 6.4 is pixels 3, 4, 5.
    changed[3:6, 2:5] = True
    assert torch.allclose(out[0, :, changed], torch.tensor(5.0))
    assert torch.equal(out[0, :, ~changed], frames[0, :, ~changed])
    between = [torch.tensor([[2.6, 2.6, 3.4, 3.4]])]  # holds no pixel's center
    assert torch.equal(paste_faces(frames, torch.ones(1, 3, 4, 4), between), frames)


@pytest.mark.rubric("paste_faces writes in the box and nowhere else")
def test_the_later_box_is_on_top():
    boxes = [torch.tensor([[0.0, 0.0, 6.0, 6.0], [3.0, 3.0, 9.0, 9.0]])]
    crops = torch.stack([torch.full((3, 4, 4), 0.25), torch.full((3, 4, 4), 0.75)])
    out = paste_faces(torch.zeros(1, 3, 9, 9), crops, boxes)
    assert torch.allclose(out[0, 0, 3:, 3:], torch.tensor(0.75))
    assert torch.allclose(out[0, 0, :3, :6], torch.tensor(0.25))
    swapped = paste_faces(torch.zeros(1, 3, 9, 9), crops.flip(0), [boxes[0].flip(0)])
    assert torch.allclose(swapped[0, 0, :6, :6], torch.tensor(0.25))


@pytest.mark.rubric("gradients flow through crop and paste")
def test_paste_gradient_is_exact_in_crops_and_frames():
    frames = rand(2, 3, 7, 8, dtype=torch.float64).requires_grad_()
    crops = rand(3, 3, 4, 4, seed=1, dtype=torch.float64).requires_grad_()
    boxes = [
        torch.tensor(b).double() for b in ([[0.4, 1, 5, 6.2], [3, 3, 5.5, 5]], [[3.0, -1, 9, 5]])
    ]
    assert torch.autograd.gradcheck(lambda f, c: paste_faces(f, c, boxes), (frames, crops))


@pytest.mark.rubric("gradients flow through crop and paste")
def test_every_crop_pixel_gets_gradient_even_in_a_small_box():
    crops = torch.zeros(1, 3, 64, 64, requires_grad=True)
    paste_faces(
        torch.zeros(1, 3, 9, 9), crops, [torch.tensor([[2.0, 2.0, 7.0, 7.0]])]
    ).sum().backward()
    assert (crops.grad > 0).all()
    # 25 pixels x 3 channels, weights sum to 1
    assert torch.allclose(crops.grad.sum(), torch.tensor(75.0))


# ---- repaint ----
@pytest.mark.rubric(
    "no face, no change; bad input is refused",
    points=1,
    hint="frames without a face come back as they are and the anonymizer is not called without "
    "one; what the docstrings name raises ValueError",
)
def test_repaint_goes_through_the_anonymizer_and_spares_frames_without_a_face():
    frames = rand(2, 3, 12, 12)
    seen = []

    def negative(crops):
        seen.append(crops.shape)
        return -crops

    negative.size = 8
    out = repaint(frames, [torch.tensor([[2.0, 2.0, 10.0, 10.0]]), NO_FACE], negative)
    assert seen == [(1, 3, 8, 8)]
    assert torch.allclose(out[0, :, 2:10, 2:10], -frames[0, :, 2:10, 2:10], atol=1e-6)
    assert torch.equal(out[1], frames[1])
    assert torch.equal(out[0, :, :2], frames[0, :, :2])


@pytest.mark.rubric("no face, no change; bad input is refused")
def test_repaint_without_any_face_never_calls_the_anonymizer():
    frames = rand(2, 3, 12, 12)

    def never(crops):
        pytest.fail("called")

    assert torch.equal(repaint(frames, [NO_FACE, NO_FACE], never), frames)
    never.size = 8
    assert torch.equal(repaint(frames, [NO_FACE, NO_FACE], never), frames)
    assert torch.equal(paste_faces(frames, torch.zeros(0, 3, 8, 8), [NO_FACE, NO_FACE]), frames)


def test_half_precision_around_the_sampler_does_not_move_pixels():
    pictures = rand(1, 3, 140, 120)
    landmarks = template()[None] + 11.3
    boxes = [torch.tensor([[20.2, 30.7, 101.4, 121.9]])]
    aligned = align_faces(pictures, landmarks)
    pasted = paste_faces(pictures, pictures[:, :, :64, :64], boxes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(align_faces(pictures, landmarks), aligned)
        assert torch.equal(paste_faces(pictures, pictures[:, :, :64, :64], boxes), pasted)
    assert (
        align_faces(pictures.bfloat16(), landmarks) - aligned
    ).abs().max() < 0.01  # rounded colors, same places


@pytest.mark.rubric("gradients flow through crop and paste")
def test_repaint_sends_gradient_to_the_anonymizers_weights():
    gain = torch.tensor(0.5, requires_grad=True)

    def scaled(crops):
        return gain * crops

    for size in (None, 8):  # on the frame's own pixels, and on crops
        if size:
            scaled.size = size
        gain.grad = None
        frames = torch.ones(1, 3, 12, 12)
        repaint(frames, [torch.tensor([[2.0, 2.0, 6.0, 6.0]])], scaled).sum().backward()
        assert torch.allclose(gain.grad, torch.tensor(48.0))  # 16 pixels x 3 channels of value 1


# ---- hand-made anonymizers: the frame's own pixels ----
PIXELS = [
    torch.tensor([[2.5, 2.6, 7.5, 7.4], [-3.2, 4.0, 3.3, 10.5]]),
    NO_FACE,
    torch.tensor([[18.0, 13.0, 27.0, 22.0], [8.6, 8.6, 9.4, 9.4]]),
]


@pytest.mark.rubric(
    "without a .size an anonymizer works on the frame's own pixels",
    points=2,
    hint="noise averaged away by the paste? without .size an anonymizer is called once a face, "
    "with the frame's own pixels in a square of whole pixels, and nothing is resampled; they are "
    "written into a copy of the frames, not in place",
)
def test_cut_pixels_are_the_frames_own_and_the_border_repeats():
    frames = rand(3, 3, 20, 24)
    squares = cut_pixels(frames, PIXELS)
    # y of the first: 2.6 ... 7.4 is pixels 3 ... 6, x 2 ... 6: the longer side counts.
    assert [square.shape[2:] for square in squares] == [(5, 5), (6, 6), (9, 9), (1, 1)]
    assert torch.equal(squares[0], frames[:1, :, 3:8, 2:7])
    wide = F.pad(frames, [10] * 4, mode="replicate")
    assert torch.equal(squares[1], wide[:1, :, 14:20, 7:13])
    assert torch.equal(squares[2], wide[2:, :, 23:32, 28:37])


@pytest.mark.rubric("without a .size an anonymizer works on the frame's own pixels")
def test_pixels_are_written_where_paste_faces_would_and_nowhere_else():
    frames = rand(3, 3, 20, 24)
    squares = [torch.full_like(square, 5.0) for square in cut_pixels(frames, PIXELS)]
    before = frames.clone()
    painted = write_pixels(frames, squares, PIXELS)
    assert torch.equal(frames, before)
    expect = paste_faces(frames, torch.full((4, 3, 6, 6), 5.0), PIXELS)
    assert torch.equal(painted != frames, expect != frames)
    assert (painted[painted != frames] == 5).all()
    with pytest.raises(ValueError):
        write_pixels(frames, squares[1:], PIXELS)
    # Where two overlap the later one is on top.
    over = [torch.tensor([[0.0, 0.0, 6.0, 6.0], [3.0, 3.0, 9.0, 9.0]]), NO_FACE, NO_FACE]
    pair = [torch.full((1, 3, 6, 6), value) for value in (0.25, 0.75)]
    painted = write_pixels(frames, pair, over)
    assert (painted[0, :, 3:9, 3:9] == 0.75).all() and (painted[0, :, :3, :6] == 0.25).all()


@pytest.mark.rubric("without a .size an anonymizer works on the frame's own pixels")
def test_repaint_calls_a_hand_made_anonymizer_once_a_face():
    frames = rand(3, 3, 20, 24)
    seen = []

    def noted(crops):
        seen.append(crops)
        return crops

    assert torch.equal(repaint(frames, PIXELS, noted), frames)  # to the last bit
    assert all(map(torch.equal, seen, cut_pixels(frames, PIXELS))) and len(seen) == 4
    bright = repaint(frames, PIXELS, torch.ones_like)
    assert (bright[0, :, 3:7, 2:7] == 1).all() and torch.equal(bright[1], frames[1])
    # Overlapping or not, each face is cut from the frame as it was.
    twice = [torch.tensor([[4.0, 4.0, 12.0, 12.0]] * 2), NO_FACE, NO_FACE]
    seen.clear()
    repaint(frames, twice, noted)
    assert [len(crops) for crops in seen] == [1, 1], "faces of one size are not called together"
    assert torch.equal(
        repaint(frames, twice, torch.neg)[0, :, 4:12, 4:12], -frames[0, :, 4:12, 4:12]
    )


@pytest.mark.parametrize("side", [16, 64, 300])
@pytest.mark.rubric("without a .size an anonymizer works on the frame's own pixels")
def test_noise_in_the_frame_has_the_variance_it_is_called_by(side):
    """Table 1's Noise(0.3): 0.3 in the range [0, 1] before clipping, in what A sees."""
    sigma = 2 * 0.3**0.5  # in [-1, 1]
    generator = torch.Generator().manual_seed(0)
    faces = math.ceil(110_000 / (3 * side**2))
    added = []
    clipped = []

    def noise(crops):
        draw = torch.randn(crops.shape, generator=generator)
        added.append(crops + sigma * draw)
        return added[-1]

    for _ in range(faces):
        face_box = torch.tensor([[13.3, 17.8, 13.3 + side / 1.6, 17.8 + side / 2]])
        square = face_squares(face_box)
        frame = torch.zeros(1, 3, side + 40, side + 40)
        painted = repaint(frame, [square], noise)
        clipped.append(painted[painted != 0])
    values = torch.cat(clipped)
    assert len(values) >= 100_000
    assert abs((values / 2).var() / 0.3 - 1) < 0.03
    patch = sigma * torch.randn(1_000_000, generator=generator)
    assert abs(values.clamp(-1, 1).var() / patch.clamp(-1, 1).var() - 1) < 0.03


# ---- bad input ----
FRAME = rand(1, 3, 8, 8)
BOX = torch.tensor([[1.0, 1.0, 5.0, 5.0]])
FACES = torch.tensor(TEMPLATE_96x112).repeat(3, 1, 1)
NOT_THIS = torch.tensor([0.0, 1.0, 0.0])[:, None, None]  # the middle one of three faces
BAD_BOXES = [[4, 4, 4, 8], [9, 4, 4, 8], [0, 0, float("nan"), 4], [-math.inf, 0, 5, 4]]
REFUSED = [
    ("landmarks row 1", similarity, FACES * (1 - NOT_THIS), FACES[0]),
    ("landmarks row 1", similarity, FACES / (1 - NOT_THIS), FACES[0]),
    ("landmarks", similarity, torch.zeros(2, 4, 2), FACES[0]),
    ("landmarks", align_faces, torch.zeros(2, 3, 8, 8), FACES[:1]),
    *(("boxes row 1", face_squares, torch.cat([BOX, torch.tensor([bad])])) for bad in BAD_BOXES),
    *(("boxes row 0", crop_faces, FRAME, [torch.tensor([bad]).float()], 4) for bad in BAD_BOXES),
    ("boxes", cut_pixels, FRAME, [torch.tensor(BAD_BOXES[:1]).float()]),
    ("boxes", crop_faces, rand(2, 3, 8, 8), [BOX], 4),
    ("boxes", crop_faces, FRAME, BOX, 4),
    ("crops", paste_faces, FRAME, rand(2, 3, 4, 4), [BOX]),
    ("crops", paste_faces, FRAME, rand(1, 3, 4, 5), [BOX]),
    ("boxes", repaint, rand(2, 3, 8, 8), [], lambda crops: crops),
]


@pytest.mark.rubric("no face, no change; bad input is refused")
def test_bad_input_is_a_ValueError():
    for _, call, *arguments in REFUSED:
        with pytest.raises(ValueError):
            call(*arguments)
            pytest.fail(f"{call.__name__} took {arguments}")


def test_refusals_name_the_field():
    for word, call, *arguments in REFUSED:
        with pytest.raises(ValueError, match=word):
            call(*arguments)
