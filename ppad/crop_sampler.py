"""Cut faces out of pictures and paste them back, differentiably.

Paper: Sec. 3.1 forms the modified frame v' = v - r_v + M(r_v): crop the face region, modify it, put
it back, change nothing else. Sec. 4 crops aligned faces for the recognizer D with "a differentiable
non-parametric grid generator and sampler", a Spatial Transformer without learnable parameters.

Two routes with the loss whose gradient flows back along each, and a third for hand-made
anonymizers, which take any size and get the frame's own pixels:

    picture f -> M -> align_faces (by f's own landmarks) -> recognizer_input -> D            L_adv
    frame v -> crop_faces -> M -> paste_faces -> v' -> A     (repaint does all three)        L_det
    frame v -> cut_pixels -> one call per face -> write_pixels -> v' -> A   (repaint does this too)

Coordinates are continuous: pixel i covers [i, i + 1), so its center is i + 0.5 and a whole frame is
(0, 0, W, H). In torch's terms this is `align_corners=False` for grid_sample and `aligned=True` for
roi_align. Images are RGB in [-1, 1]; boxes are xyxy in pixels; landmarks are five x, y points in
pixels: left eye, right eye, nose, left mouth corner, right mouth corner (as seen in the picture).

Keep boxes and landmarks on the CPU, where checking them needs no GPU sync.
"""

import math

import torch
import torch.nn.functional as F

# SphereFace's alignment targets in its 96 (wide) x 112 (high) frame, from its public alignment
# script, which counts pixels from 1. We use them as continuous coordinates (ours). They are then
# symmetric (their mean x is 48.03, the frame's middle 48), which suits D's mirrored crops.
TEMPLATE_96x112 = (
    (30.2946, 51.6963),
    (65.5318, 51.5014),
    (48.0252, 71.7366),
    (33.5493, 92.3655),
    (62.7299, 92.2041),
)

# Aligned crops beyond the picture's edge: black, as in SphereFace's alignment script.
BLACK = -1.0
# px (ours): landmarks closer together than this, before or after the fit, are degenerate.
MIN_SPREAD = 1e-2
# Sec. 5.2: face boxes are enlarged by this factor, to hold most of the head.
FACE_SCALE = 1.6


# ------------------------------------------------------------------ picture -> D: aligned faces


def template(out_size=(112, 96)):
    """The five target points in an aligned crop of `out_size` = (height, width): (5, 2), px."""
    height, width = out_size
    return torch.tensor(TEMPLATE_96x112) * torch.tensor([width / 96, height / 112])  # (5, 2)


def similarity(landmarks, target):
    """Least-squares similarity transform (scale, rotation, shift; no mirroring), in closed form.

    landmarks (B, 5, 2) and target (5, 2), in pixels. Returns (B, 2, 3) matrices
    T = [[a, -b, tx], [b, a, ty]] that minimize sum |T(landmark) - target|^2. Differentiable in both
    arguments. (SphereFace's script minimizes the error in the picture rather than in the crop.)

    Raises ValueError for wrong shapes, and for a row whose points are not finite, coincide, or fit
    only a scale of 0.
    """
    if landmarks.ndim != 3 or landmarks.shape[1:] != (5, 2):
        raise ValueError(f"landmarks must have shape (B, 5, 2), got {tuple(landmarks.shape)}")
    target = target.to(landmarks)
    source_mean = landmarks.mean(1)  # (B, 2)
    target_mean = target.mean(0)  # (2,)
    x, y = (landmarks - source_mean[:, None]).unbind(-1)  # (B, 5) each
    u, v = (target - target_mean).unbind(-1)  # (5,) each

    # Centered, the model is u = a x - b y, v = b x + a y, whose normal equations are diagonal.
    spread = (x * x + y * y).sum(1)  # (B,)
    a = (x * u + y * v).sum(1) / spread  # (B,)
    b = (x * v - y * u).sum(1) / spread  # (B,)
    fitted = (a * a + b * b) * spread  # (B,), spread of the landmarks mapped into the crop
    good = (spread > MIN_SPREAD**2) & (fitted > MIN_SPREAD**2)  # (B,), False for NaN
    if not good.all():
        row = int((~good).nonzero()[0])
        raise ValueError(f"landmarks row {row} is degenerate: give five finite, distinct points")

    linear = torch.stack([a, -b, b, a], -1).view(-1, 2, 2)  # (B, 2, 2)
    shift = target_mean - (linear * source_mean[:, None]).sum(-1)  # (B, 2)
    return torch.cat([linear, shift[..., None]], -1)  # (B, 2, 3)


def align_faces(images, landmarks, out_size=(112, 96)):
    """Cut out aligned faces: the paper's grid generator and sampler (Sec. 4).

    images (B, 3, H, W) and landmarks (B, 5, 2) in pixels of those images; returns (B, 3, h, w) for
    out_size = (h, w), bilinear, BLACK where the crop reaches beyond the picture. Exact gradient to
    `images`.

    For D's view of M(f) pass M(f) as images and the landmarks of the original f: with landmarks
    detected on the modified face, M could win by breaking the landmark detector. If f was resized
    for M, scale its landmarks too. Pictures over about twice the crop's scale would alias.

    Raises ValueError as `similarity` does, or if the batch sizes differ.
    """
    if images.ndim != 4 or len(images) != len(landmarks):
        shape = tuple(images.shape)
        raise ValueError(f"landmarks has {len(landmarks)} rows for images (B, 3, H, W) of {shape}")
    # Under autocast M returns half precision, whose steps at 100 px are too coarse: bf16's 0.5 px.
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    with torch.autocast(images.device.type, enabled=False):
        grid = _sampling_grid(images, landmarks.to(images.dtype), out_size)  # (B, h, w, 2)
        # Zero padding would be gray in [-1, 1]; with black shifted to 0, the padding is black.
        crops = F.grid_sample(images - BLACK, grid, "bilinear", "zeros", align_corners=False)
        return crops + BLACK  # (B, 3, h, w)


def _sampling_grid(images, landmarks, out_size):
    """Where in the images (B, 3, H, W) each aligned crop pixel comes from: (B, h, w, 2), in
    grid_sample's units."""
    high, wide = images.shape[-2:]
    out_high, out_wide = out_size
    fit = similarity(landmarks, template(out_size))  # (B, 2, 3), picture -> crop

    # The sampler needs crop -> picture. [[a, -b], [b, a]] is inverted by its transpose and
    # determinant.
    linear = fit[:, :, :2]  # (B, 2, 2)
    shift = fit[:, :, 2:]  # (B, 2, 1)
    inverse = linear.transpose(1, 2) / torch.det(linear)[:, None, None]  # (B, 2, 2)
    origin = -inverse @ shift  # (B, 2, 1), the crop's corner (0, 0) in the picture

    # affine_grid has units of [-1, 1] on both sides: pixels = (unit + 1) * half the side.
    half_out = landmarks.new_tensor([[out_wide / 2], [out_high / 2]])  # (2, 1)
    half_in = landmarks.new_tensor([[wide / 2], [high / 2]])  # (2, 1)
    unit_linear = inverse * half_out.T / half_in  # (B, 2, 2)
    unit_shift = (inverse @ half_out + origin) / half_in - 1  # (B, 2, 1)
    theta = torch.cat([unit_linear, unit_shift], -1)  # (B, 2, 3)
    theta = theta.to(images.device, non_blocking=images.device.type != "cpu")
    return F.affine_grid(theta, [*images.shape[:2], out_high, out_wide], align_corners=False)


def recognizer_input(aligned):
    """From M's RGB x/127.5 - 1 to D's BGR (x - 127.5)/128, x in 0...255. (B, 3, h, w) -> same.

    Source: SphereFace's public model files, which take BGR.
    """
    return aligned.flip(1) * (127.5 / 128)


# ------------------------------------------------------------------ frame -> M -> frame


def face_squares(boxes, scale=FACE_SCALE):
    """The squares that cut out faces f and regions r_v: `scale` times a box's longer side.

    Sec. 5.2 says 1.6 times, not how. Ours: a square around the box's center, never clipped, so that
    a face at the border is framed like any other.

    boxes (k, 4) xyxy px, k may be 0. Returns (k, 4), which may reach out of the frame.
    Raises ValueError for a box that is not finite or has no area.
    """
    _check_boxes(boxes)
    center = (boxes[:, :2] + boxes[:, 2:]) / 2  # (k, 2)
    sides = boxes[:, 2:] - boxes[:, :2]  # (k, 2)
    half = sides.amax(1, keepdim=True) * (scale / 2)  # (k, 1)
    return torch.cat([center - half, center + half], 1)  # (k, 4)


def crop_faces(frames, boxes, size):
    """Resample every face box of every frame to a square of `size` pixels (bilinear, Sec. 4).

    frames (B, 3, H, W); boxes a list of B tensors (k_i, 4) xyxy px, k_i may be 0. Where a box
    reaches out of its frame the border pixels are repeated. Returns (K, 3, S, S), K = sum of k_i,
    in list order; K may be 0. Differentiable in frames.

    A crop pixel that covers more than one frame pixel averages ceil(box side / S) bilinear samples
    along each axis, so that strong down-scaling does not pick single pixels.

    Raises ValueError for a list of the wrong length and for boxes not finite or without area.
    """
    flat, frame_of = _flatten_boxes(frames, boxes)  # (K, 4), (K,)
    regions = torch.cat([frame_of[:, None].to(flat), flat], 1)  # (K, 5)
    crops = _sample(frames, regions, size)  # (K, 3, S, S)

    # The sampler is 0 beyond the frame: boxes that reach there are sampled from a padded frame.
    height, width = frames.shape[-2:]
    beyond = torch.cat([-flat[:, :2], flat[:, 2:] - flat.new_tensor([width, height])], 1)  # (K, 4)
    outside = (beyond > 0).any(1).nonzero()[:, 0]  # (n,), indices of boxes
    if len(outside):
        margin = math.ceil(beyond.max())
        padded = F.pad(frames, [margin] * 4, mode="replicate")
        shift = flat.new_tensor([0, margin, margin, margin, margin])
        fixed = _sample(padded, regions[outside] + shift, size)  # (n, 3, S, S)
        crops = crops.index_copy(0, outside.to(crops.device), fixed)
    return crops


def _sample(frames, regions, size):
    """roi_align of regions (K, 5), each [frame, x1, y1, x2, y2]: (K, 3, size, size)."""
    from torchvision.ops import roi_align  # a slow import that hand-made anonymizers avoid

    regions = regions.to(frames.device, non_blocking=frames.device.type != "cpu")
    # sampling_ratio=-1: ceil(box side / size) samples along each axis.
    return roi_align(frames, regions, size, sampling_ratio=-1, aligned=True)


def paste_faces(frames, crops, boxes):
    """v' = v - r_v + M(r_v) (Sec. 3.1): resample each crop to its box and write it there.

    frames (B, 3, H, W); crops (K, 3, S, S) and boxes (list of B tensors (k_i, 4)) as in crop_faces.
    Returns v' (B, 3, H, W). Exactly the pixels of the frame whose center lies in a box (x1 <=
    center < x2, likewise y) change; all others stay the same bit for bit. Where boxes of a frame
    overlap, the later one in its list is on top. Without any face the frames come back unchanged.
    Differentiable in crops and in frames.

    Bilinear. Where the crop is larger than its box, the bilinear kernel widens to the size of a
    frame pixel (like torch's `antialias=True`), so that every crop pixel contributes to v' and gets
    a gradient of L_det.

    Raises ValueError as crop_faces does, or if the numbers of crops and boxes differ.
    """
    flat, frame_of = _flatten_boxes(frames, boxes)  # (K, 4), (K,)
    if crops.ndim != 4 or len(crops) != len(flat) or crops.shape[-1] != crops.shape[-2]:
        shape = tuple(crops.shape)
        raise ValueError(f"crops has shape {shape}: give (K, 3, S, S) for {len(flat)} boxes")
    if len(flat) == 0:
        return frames

    start, end = _whole_pixels(flat)  # (K, 2) each
    wide, high = (end - start).amax(0).tolist()  # of the largest box

    # Resize all crops at once to the size of the largest box, each by one matrix for its rows and
    # one for its columns.
    flat = flat.to(frames.device, non_blocking=frames.device.type != "cpu")
    weights = _resize_weights(flat, max(wide, high), crops.shape[-1])  # (K, 2, max, S)
    across = weights[:, None, 0, :wide]  # (K, 1, w, S)
    down = weights[:, None, 1, :high]  # (K, 1, h, S)
    with torch.autocast(frames.device.type, enabled=False):  # half precision would show as banding
        patches = down @ crops.to(frames.dtype) @ across.mT  # (K, 3, h, w)
    return _overlay(frames, patches, frame_of, start, end)


def _resize_weights(boxes, length, size):
    """Weights of the crop pixels in each frame pixel, along x and along y: (K, 2, length, size).

    boxes (K, 4). Row i is the i-th frame pixel whose center is in the box; each row sums to 1.
    """
    low = boxes[:, :2, None]  # (K, 2, 1)
    high = boxes[:, 2:, None]  # (K, 2, 1)
    steps = torch.arange(length, device=boxes.device, dtype=boxes.dtype)  # (length,)
    pixel = (low - 0.5).ceil() + steps + 0.5  # (K, 2, length), centers
    ratio = size / (high - low)  # (K, 2, 1), crop pixels per frame pixel
    point = ((pixel - low) * ratio).clamp(0.5, size - 0.5)  # (K, 2, length), in the crop
    centers = torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5  # (size,)
    reach = ratio.clamp(min=1)[..., None]  # (K, 2, 1, 1), half the kernel's width
    tent = (1 - (point[..., None] - centers).abs() / reach).clamp(min=0)  # (K, 2, length, size)
    return tent / tent.sum(-1, keepdim=True)


def _overlay(frames, patches, frame_of, start, end):
    """A copy of the frames (B, 3, H, W) with patch k (3, h, w) over the pixels of box k, which run
    from `start` to `end`, (K, 2) each, see `_whole_pixels`. Later patches are on top. Parts
    outside the box or the frame are dropped."""
    limit = start.new_tensor(frames.shape[-2:]).flip(0)  # (2,), width and height
    low = start.clamp(min=0).minimum(limit)  # (K, 2), what lies in the frame
    high = end.clamp(min=0).minimum(limit)  # (K, 2)
    rows = torch.cat([frame_of[:, None], low, high, low - start, high - start], 1)  # (K, 9)
    painted = list(map(torch.clone, frames))  # a list: a paste's backward copies its whole tensor
    for patch, row in zip(patches, rows.tolist(), strict=True):
        frame, x0, y0, x1, y1, u0, v0, u1, v1 = row
        painted[frame][:, y0:y1, x0:x1] = patch[:, v0:v1, u0:u1]
    return torch.stack(painted)


def _whole_pixels(flat):
    """Start and end (exclusive) of the pixels whose center lies in each box (K, 4), along x and y:
    (K, 2) int64 each."""
    start = (flat[:, :2] - 0.5).ceil().long()  # (K, 2)
    end = (flat[:, 2:] - 0.5).ceil().long()  # (K, 2)
    return start, end


# ------------------------------------------------------------------ frame -> pixels -> frame


def cut_pixels(frames, boxes):
    """Every face box of every frame as the frame's own pixels, a square of whole pixels.

    frames and boxes as in crop_faces. Returns a list of K tensors (1, 3, s, s), in list order: the
    smallest square that starts at the box's first pixel and holds all pixels whose center lies in
    the box; border pixels are repeated beyond the frame. Raises ValueError as crop_faces does.
    """
    flat, frame_of = _flatten_boxes(frames, boxes)  # (K, 4), (K,)
    height, width = frames.shape[-2:]
    start, end = _whole_pixels(flat)  # (K, 2) each
    sides = (end - start).amax(1).clamp(min=1)  # (K,), 1 for a box between two centers
    squares = []
    for frame, (left, top), side in zip(frame_of.tolist(), start.tolist(), sides.tolist()):
        steps = torch.arange(side, device=frames.device)  # (s,)
        rows = (top + steps).clamp(0, height - 1)  # (s,)
        columns = (left + steps).clamp(0, width - 1)  # (s,)
        squares.append(frames[frame][None, :, rows[:, None], columns])  # (1, 3, s, s)
    return squares


def write_pixels(frames, squares, boxes):
    """Write the squares of `cut_pixels`, now anonymized, into a copy of the frames.

    squares: K tensors (1, 3, s, s). Returns v' (B, 3, H, W); the same pixels change as in
    paste_faces. Raises ValueError as crop_faces does, or if the number of squares is not K.
    """
    flat, frame_of = _flatten_boxes(frames, boxes)  # (K, 4), (K,)
    patches = [square[0] for square in squares]
    return _overlay(frames, patches, frame_of, *_whole_pixels(flat))


def repaint(frames, boxes, anonymizer):
    """Cut out every face, anonymize it, put it back: lines 5-8 of Algorithm 1.

    frames (B, 3, H, W); boxes a list of B tensors (k_i, 4), already enlarged (`face_squares`);
    anonymizer any callable (K, 3, S, S) -> same shape, [-1, 1] both ways. Its `.size` alone decides
    how it is called. M has one: all crops are resampled to S = size, modified in one call, and
    pasted. A hand-made anonymizer has none: it is called once per face, on the frame's own pixels,
    and its output is written back pixel by pixel; resampling would average its noise away.

    Frames without a face come back unmodified; without any face the anonymizer is not called.
    Raises ValueError as crop_faces and paste_faces do.
    """
    size = getattr(anonymizer, "size", None)
    if size is None:
        squares = [anonymizer(square) for square in cut_pixels(frames, boxes)]
        return write_pixels(frames, squares, boxes)
    crops = crop_faces(frames, boxes, size)  # (K, 3, S, S)
    if len(crops) == 0:
        return frames
    return paste_faces(frames, anonymizer(crops), boxes)


# ------------------------------------------------------------------ boxes


def _flatten_boxes(frames, boxes):
    """Check a list of B box tensors against frames. Returns all boxes (K, 4) and the frame index of
    each (K,), both on the device of the boxes."""
    if frames.ndim != 4 or len(boxes) != len(frames):
        shape = tuple(frames.shape)
        raise ValueError(f"boxes must be a list of B tensors for frames (B, 3, H, W) of {shape}")
    flat = torch.cat(list(boxes)).to(frames.dtype)  # (K, 4)
    _check_boxes(flat)
    counts = torch.tensor(list(map(len, boxes)))  # (B,)
    frame_of = torch.repeat_interleave(counts).to(flat.device)  # (K,)
    return flat, frame_of


def _check_boxes(boxes):
    """ValueError unless boxes are (k, 4), finite, and have an area."""
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (k, 4), got {tuple(boxes.shape)}")
    good = boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)  # (k,)
    if not good.all():
        row = int((~good).nonzero()[0])
        raise ValueError(f"boxes row {row} {boxes[row].tolist()}: give finite x1 < x2, y1 < y2")
