"""A correct crop_sampler, written another way: faces as complex numbers, own bilinear reading, one
box after the other.
"""

import math

import torch
import torch.nn.functional as F

TEMPLATE_96x112 = (
    (30.2946, 51.6963),
    (65.5318, 51.5014),
    (48.0252, 71.7366),
    (33.5493, 92.3655),
    (62.7299, 92.2041),
)


FACE_SCALE = 1.6


def template(out_size=(112, 96)):
    rows = [(x * out_size[1] / 96, y * out_size[0] / 112) for x, y in TEMPLATE_96x112]
    return torch.tensor(rows)


def _turn_and_shift(landmarks, target):
    """The similarity as two complex numbers a face, w = turn * z + shift."""
    if landmarks.dim() != 3 or tuple(landmarks.shape[1:]) != (5, 2):
        raise ValueError("five points a face, please")
    z = torch.complex(landmarks[..., 0], landmarks[..., 1])
    w = torch.complex(target[:, 0], target[:, 1]).to(z)
    z0 = z.mean(1, keepdim=True)
    w0 = w.mean()
    power = (z - z0).abs().pow(2).sum(1)
    turn = ((z - z0).conj() * (w - w0)).sum(1) / power
    for face in range(len(z)):
        if not (power[face] > 1e-4 and turn[face].abs() ** 2 * power[face] > 1e-4):
            raise ValueError(f"face {face} is no face")
    return turn, w0 - turn * z0[:, 0]


def similarity(landmarks, target):
    turn, shift = _turn_and_shift(landmarks, target)
    top = torch.stack([turn.real, -turn.imag, shift.real], 1)
    bottom = torch.stack([turn.imag, turn.real, shift.imag], 1)
    return torch.stack([top, bottom], 1)


def align_faces(images, landmarks, out_size=(112, 96)):
    if images.dim() != 4 or images.shape[0] != landmarks.shape[0]:
        raise ValueError("as many faces as pictures, please")
    h, w = out_size
    turn, shift = _turn_and_shift(landmarks.to(images), template(out_size).to(images))
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    crop = torch.complex(x, y).to(turn)[None]
    # Crop pixel's center, seen in the picture.
    place = (crop - shift[:, None, None]) / turn[:, None, None]
    px = place.real - 0.5
    py = place.imag - 0.5
    left = px.floor()
    upper = py.floor()
    out = 0
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (1 - (px - left - dx).abs()) * (1 - (py - upper - dy).abs())
            column = (left + dx).long()
            row = (upper + dy).long()
            inside = (
                (column >= 0) & (column < images.shape[3]) & (row >= 0) & (row < images.shape[2])
            )
            flat = row.clamp(0, images.shape[2] - 1) * images.shape[3] + column.clamp(
                0, images.shape[3] - 1
            )
            index = flat.flatten(1)[:, None].expand(-1, images.shape[1], -1)
            color = images.flatten(2).gather(2, index).view(len(images), -1, h, w)
            out = out + weight[:, None] * torch.where(
                inside[:, None], color, torch.full_like(color, -1.0)
            )
    return out


def recognizer_input(aligned):
    levels = (aligned.flip(1) + 1) * 127.5
    return (levels - 127.5) / 128


def _checked(boxes):
    if boxes.dim() != 2 or boxes.shape[-1] != 4:
        raise ValueError("boxes are rows of four numbers")
    x1, y1, x2, y2 = boxes.float().unbind(1)
    if not bool((torch.isfinite(boxes).all(1) & (x1 < x2) & (y1 < y2)).all()):
        raise ValueError("a box is empty")
    return boxes


def face_squares(boxes, scale=FACE_SCALE):
    x1, y1, x2, y2 = _checked(boxes).float().unbind(1)
    side = scale * torch.maximum(x2 - x1, y2 - y1)
    left = (x1 + x2 - side) / 2
    top = (y1 + y2 - side) / 2
    return torch.stack([left, top, left + side, top + side], 1)


def _pairs(frames, boxes):
    """[(frame number, x1, y1, x2, y2)] in list order."""
    if frames.dim() != 4 or len(boxes) != frames.shape[0]:
        raise ValueError("one tensor of boxes a frame, please")
    return [(n, *box) for n, some in enumerate(boxes) for box in _checked(some).tolist()]


def crop_faces(frames, boxes, size):
    crops = []
    for number, x1, y1, x2, y2 in _pairs(frames, boxes):
        nx = math.ceil((x2 - x1) / size)
        ny = math.ceil((y2 - y1) / size)
        x = x1 + (torch.arange(size * nx).to(frames) + 0.5) * (x2 - x1) / (size * nx)
        y = y1 + (torch.arange(size * ny).to(frames) + 0.5) * (y2 - y1) / (size * ny)
        grid = torch.stack(
            torch.meshgrid(2 * x / frames.shape[3] - 1, 2 * y / frames.shape[2] - 1, indexing="xy"),
            -1,
        )
        samples = F.grid_sample(
            frames[number : number + 1], grid[None], padding_mode="border", align_corners=False
        )
        crops.append(F.avg_pool2d(samples, (ny, nx)))
    return torch.cat(crops) if crops else frames.new_zeros(0, frames.shape[1], size, size)


def _weights(pixels, low, high, size, like):
    """(pixels, size): how much each crop line gives to each frame line."""
    ratio = size / (high - low)
    at = ((torch.tensor(pixels).to(like) + 0.5 - low) * ratio).clamp(0.5, size - 0.5)
    lines = torch.arange(size).to(like) + 0.5
    tent = F.relu(1 - (at[:, None] - lines[None]).abs() / max(ratio, 1.0))
    return F.normalize(tent, p=1, dim=1)


def paste_faces(frames, crops, boxes):
    pairs = _pairs(frames, boxes)
    if crops.dim() != 4 or crops.shape[0] != len(pairs) or crops.shape[2] != crops.shape[3]:
        raise ValueError("one square crop a box, please")
    out = list(frames)
    for crop, (number, x1, y1, x2, y2) in zip(crops, pairs):
        columns = [j for j in range(frames.shape[3]) if x1 <= j + 0.5 < x2]
        rows = [i for i in range(frames.shape[2]) if y1 <= i + 0.5 < y2]
        if not columns or not rows:
            continue
        down = _weights(rows, y1, y2, crops.shape[2], frames)
        across = _weights(columns, x1, x2, crops.shape[2], frames)
        patch = torch.einsum("is,cst,jt->cij", down, crop.to(frames.dtype), across)
        canvas = F.pad(
            patch,
            (
                columns[0],
                frames.shape[3] - columns[-1] - 1,
                rows[0],
                frames.shape[2] - rows[-1] - 1,
            ),
        )
        inside = F.pad(
            torch.ones_like(patch[0]),
            (
                columns[0],
                frames.shape[3] - columns[-1] - 1,
                rows[0],
                frames.shape[2] - rows[-1] - 1,
            ),
        )
        # A later box covers an earlier one.
        out[number] = torch.where(inside > 0, canvas, out[number])
    return torch.stack(out)


def _pixels(x1, y1, x2, y2):
    """First column, first row and side of the square of whole pixels."""
    left = math.ceil(x1 - 0.5)
    top = math.ceil(y1 - 0.5)
    return left, top, max(math.ceil(x2 - 0.5) - left, math.ceil(y2 - 0.5) - top, 1)


def cut_pixels(frames, boxes):
    squares = []
    for number, *box in _pairs(frames, boxes):
        left, top, side = _pixels(*box)
        rows = [min(max(top + i, 0), frames.shape[2] - 1) for i in range(side)]
        columns = [min(max(left + i, 0), frames.shape[3] - 1) for i in range(side)]
        squares.append(frames[number : number + 1][:, :, rows][:, :, :, columns])
    return squares


def write_pixels(frames, squares, boxes):
    pairs = _pairs(frames, boxes)
    if len(squares) != len(pairs):
        raise ValueError("one square a box, please")
    out = frames.clone()
    for square, (number, x1, y1, x2, y2) in zip(squares, pairs):
        left, top, _ = _pixels(x1, y1, x2, y2)
        columns = [j for j in range(frames.shape[3]) if x1 <= j + 0.5 < x2]
        rows = [i for i in range(frames.shape[2]) if y1 <= i + 0.5 < y2]
        for i in rows:
            for j in columns:
                out[number, :, i, j] = square[0, :, i - top, j - left]
    return out


def repaint(frames, boxes, anonymizer):
    if not hasattr(anonymizer, "size"):
        return write_pixels(frames, [anonymizer(one) for one in cut_pixels(frames, boxes)], boxes)
    if not _pairs(frames, boxes):
        return frames
    crops = crop_faces(frames, boxes, anonymizer.size)
    return paste_faces(frames, anonymizer(crops), boxes)
