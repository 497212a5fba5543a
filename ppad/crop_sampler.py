"""Cut faces out of pictures and put them back, differentiably.

Paper: Sec. 3.1 forms the modified frame v' = v - r_v + M(r_v): crop the face region, modify it, put it back, touch
nothing else. Sec. 4 crops aligned faces for the recogniser D with "a differentiable non-parametric grid generator and
sampler", a Spatial Transformer without learnable parameters. Sec. 5.2 enlarges each detected face box by 1.6.

Two routes, and the loss that sends its gradient along each:

    picture f -> M -> align_faces (by f's own landmarks) -> recognizer_input -> D            L_adv
    frame v -> crop_faces -> M -> paste_faces -> v' -> A     (repaint does all three)        L_det

Coordinates are continuous: pixel i covers [i, i + 1), so its centre is i + 0.5 and a whole frame is (0, 0, W, H).
In torch's words this is `align_corners=False` for grid_sample and `aligned=True` for roi_align.
Images are RGB in [-1, 1]; boxes are xyxy in pixels; landmarks are five x, y points in pixels: left eye, right eye,
nose, left mouth corner, right mouth corner (left as seen in the picture).
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torchvision.ops import roi_align

# SphereFace's alignment targets in its 96 (wide) x 112 (high) frame, from its public alignment script.
# The half pixel: the script is MATLAB, which counts pixels from 1, so strictly its points lie at these numbers minus
# 0.5 in our coordinates; Python ports count from 0, which makes it plus 0.5. We take the numbers as continuous
# coordinates as they stand (ours): never more than half a pixel from either reading, mirror-symmetric in the frame
# (the mean of the five x is 48.03, the frame's middle 48), which suits D's mirrored features, and exact to rescale.
TEMPLATE_96x112 = (
    (30.2946, 51.6963),
    (65.5318, 51.5014),
    (48.0252, 71.7366),
    (33.5493, 92.3655),
    (62.7299, 92.2041),
)

BLACK = (
    -1.0
)  # what align_faces shows beyond the picture: black, as in SphereFace's alignment script
MIN_SPREAD = 1e-2  # px (ours): points closer together than this, or a fit that shrinks them to this, are not a face
FRAME_SLACK = (
    1e-2  # px (ours): forgives the rounding of a box that was scaled together with its frame
)


def template(out_size=(112, 96)):
    """The five target points scaled to an aligned crop of `out_size` = (height, width): (5, 2) x, y in pixels."""
    height, width = out_size
    return torch.tensor(TEMPLATE_96x112) * torch.tensor([width / 96, height / 112])  # (5, 2)


def similarity(landmarks, target):
    """Least-squares similarity transform (scale, turn, shift: 4 degrees of freedom, no mirroring), in closed form.

    landmarks (B, 5, 2) and target (5, 2), in pixels. Returns (B, 2, 3) matrices T = [[a, -b, tx], [b, a, ty]] that
    minimise sum |T(landmark) - target|^2. Differentiable in both arguments. (SphereFace's script minimises the error
    in the picture rather than in the crop; the two agree when the five points fit exactly.)

    Raises ValueError for wrong shapes, and for a row whose points are not finite, coincide, or fit only a scale of 0.
    """
    if landmarks.ndim != 3 or landmarks.shape[1:] != (5, 2):
        raise ValueError(
            f"landmarks must have shape (B, 5, 2), got {tuple(landmarks.shape)}: give five x, y a face"
        )
    target = target.to(landmarks)
    source_mean = landmarks.mean(1)  # (B, 2)
    target_mean = target.mean(0)  # (2,)
    x, y = (landmarks - source_mean[:, None]).unbind(-1)  # (B, 5) each
    u, v = (target - target_mean).unbind(-1)  # (5,) each

    # Centred, the model is u = a x - b y and v = b x + a y. Its normal equations are diagonal, hence these quotients.
    spread = (x * x + y * y).sum(1)  # (B,)
    a = (x * u + y * v).sum(1) / spread  # (B,)
    b = (x * v - y * u).sum(1) / spread  # (B,)
    fitted = (
        a * a + b * b
    ) * spread  # (B,) spread of the landmarks once they are mapped into the crop
    good = (spread > MIN_SPREAD**2) & (
        fitted > MIN_SPREAD**2
    )  # a NaN compares false, so it counts as bad
    if not good.all():
        row = int((~good).nonzero()[0])
        raise ValueError(
            f"landmarks row {row} is degenerate: drop that face or give five finite, distinct points"
        )

    linear = torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], 1)  # (B, 2, 2)
    shift = target_mean - (linear * source_mean[:, None]).sum(-1)  # (B, 2)
    return torch.cat([linear, shift[..., None]], -1)  # (B, 2, 3)


def align_faces(images, landmarks, out_size=(112, 96)):
    """Cut out aligned faces: the paper's grid generator and sampler (Sec. 4).

    images (B, 3, H, W) and landmarks (B, 5, 2) in pixels of those images; returns (B, 3, h, w) for
    out_size = (h, w), bilinear, BLACK where the crop reaches beyond the picture. Exact gradient to `images`.

    The landmarks may lie on the CPU whatever the images lie on, and are best there (see `_beside`).
    For D's view of M(f) pass M(f) as images and the landmarks of the original f: detecting them anew on a modified
    face would let M win by breaking the landmark detector. If f was resized for M, scale its landmarks alike.
    Bilinear sampling takes four pixels each, as in the paper; pictures over about twice the crop's scale would alias.

    Raises ValueError as `similarity` does, or when the two batch sizes differ.
    """
    if images.ndim != 4 or len(images) != len(landmarks):
        raise ValueError(
            f"landmarks has {len(landmarks)} rows for images of shape {tuple(images.shape)}: give (B, 3, H, W) images "
            "and one row of landmarks for each"
        )
    # Under autocast M hands over half precision, whose steps at 100 px are half a pixel: no place for coordinates.
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    with torch.autocast(images.device.type, enabled=False):
        grid = _sampling_grid(images, landmarks.to(images.dtype), out_size)  # (B, h, w, 2)
        # Zero padding means grey in [-1, 1]; moving black to 0 for the sampling makes it mean black.
        return (
            F.grid_sample(images - BLACK, grid, "bilinear", "zeros", align_corners=False) + BLACK
        )  # (B, 3, h, w)


def recognizer_input(aligned):
    """M's scale to D's: RGB x/127.5 - 1 to BGR (x - 127.5)/128, x in 0...255. (B, 3, h, w) -> same shape.
    Source: SphereFace's public model files, which take BGR."""
    return aligned.flip(1) * (127.5 / 128)


def enlarge_boxes(boxes, frame_size, scale=1.6):
    """Scale each box's width and height about its centre, then clip it to the frame (Sec. 5.2: 1.6).

    boxes (k, 4) xyxy px, k may be 0; frame_size = (H, W). Returns (k, 4).
    Raises ValueError for a box that is not finite or has no area, before or after clipping.
    """
    boxes = boxes if boxes.is_floating_point() else boxes.float()
    _check_boxes(boxes)
    high, wide = frame_size
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2  # (k, 2)
    half = (boxes[:, 2:] - boxes[:, :2]) * (scale / 2)  # (k, 2)
    limit = boxes.new_tensor([wide, high, wide, high])
    enlarged = torch.cat([centre - half, centre + half], 1).clamp(min=0).minimum(limit)  # (k, 4)
    _check_boxes(enlarged)
    return enlarged


def crop_faces(frames, boxes, size):
    """Resample every face box of every frame to a square of `size` pixels (bilinear, Sec. 4).

    frames (B, 3, H, W); boxes a list of B tensors (k_i, 4) xyxy px inside their frame, k_i may be 0, best on the CPU.
    Returns (K, 3, S, S), K = sum of k_i, in list order; K may be 0. Differentiable in frames.

    A crop pixel that covers more than one frame pixel averages ceil(box side / S) bilinear samples along each axis,
    so strong down-scaling averages what is there instead of picking single pixels. (Samples within half a pixel of
    the box's rim also mix in the pixel just outside.)

    Raises ValueError for a list of the wrong length and for boxes without area, not finite or outside the frame.
    """
    flat, frame_of = _flatten_boxes(frames, boxes)  # (K, 4), (K,)
    regions = _beside(torch.cat([frame_of[:, None].to(flat), flat], 1), frames)  # (K, 5)
    # sampling_ratio=-1 is the "ceil(box side / S)" above.
    return roi_align(frames, regions, size, sampling_ratio=-1, aligned=True)  # (K, 3, S, S)


def paste_faces(frames, crops, boxes):
    """v' = v - r_v + M(r_v) (Sec. 3.1): resample each crop to its box and write it there.

    frames (B, 3, H, W); crops (K, 3, S, S) and boxes (list of B tensors (k_i, 4)) as crop_faces gives and takes them.
    Returns v' (B, 3, H, W). Exactly the pixels whose centre lies in a box (x1 <= centre < x2, likewise y) change; all
    others keep their bits. Where boxes of a frame overlap, the later one in its list is on top, always. Without any
    face the frames come back as they are. Differentiable in crops and in frames.

    Bilinear; where the crop is larger than its box the bilinear tent is widened to the box pixel's own size (as
    torch's `antialias=True`), so that every crop pixel reaches v' and gets its share of L_det's gradient.
    Cost: K matrix products as large as the largest box.

    Raises ValueError as crop_faces does, or when the number of crops and of boxes differ.
    """
    flat, frame_of = _flatten_boxes(frames, boxes)  # (K, 4), (K,)
    if crops.ndim != 4 or len(crops) != len(flat) or crops.shape[-1] != crops.shape[-2]:
        raise ValueError(
            f"crops has shape {tuple(crops.shape)} for {len(flat)} boxes: give (K, 3, S, S), one a box"
        )
    if len(flat) == 0:
        return frames

    start = (flat[:, :2] - 0.5).ceil().long()  # (K, 2) first pixel whose centre is in the box
    extent = (flat[:, 2:] - 0.5).ceil().long() - start  # (K, 2) pixels wide and high
    spots = torch.cat(
        [frame_of[:, None], start, extent], 1
    ).tolist()  # K times [frame, left, top, wide, high]

    # Resize all crops at once. A separable resize is one matrix for the rows and one for the columns; boxes smaller
    # than the largest leave the rest of their patch unused.
    flat, start = _beside(flat, frames), _beside(start, frames)
    most_wide, most_high = (max(spot[i] for spot in spots) for i in (3, 4))
    across = _resize_matrix(
        flat[:, 0], flat[:, 2], start[:, 0], most_wide, crops.shape[-1]
    )  # (K, w, S)
    down = _resize_matrix(
        flat[:, 1], flat[:, 3], start[:, 1], most_high, crops.shape[-1]
    )  # (K, h, S)
    with torch.autocast(
        frames.device.type, enabled=False
    ):  # half precision here would show as banding
        patches = (
            down[:, None] @ crops.to(frames.dtype) @ across[:, None].transpose(2, 3)
        )  # (K, 3, h, w)
    return _Overlay.apply(frames, patches, spots)


class _Overlay(torch.autograd.Function):
    """Lay patches (K, 3, h, w) over frames (B, 3, H, W), the later on top; spots: K times [frame, left, top, wide, high].

    Its gradient is written by hand because autograd's own would copy all the frames once for every face.
    """

    @staticmethod
    def forward(ctx, frames, patches, spots):
        ctx.spots, ctx.shape = spots, patches.shape
        pasted = frames.clone()
        for patch, (frame, left, top, wide, high) in zip(patches, spots):
            pasted[frame, :, top : top + high, left : left + wide] = patch[:, :high, :wide]
        return pasted

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        to_frames, to_patches = None, gradient.new_zeros(ctx.shape)
        for k, (frame, left, top, wide, high) in enumerate(ctx.spots):
            patch = to_patches[k, :, :high, :wide]
            patch.copy_(gradient[frame, :, top : top + high, left : left + wide])
            for other, x, y, w, h in ctx.spots[k + 1 :]:
                if (
                    other == frame
                    and x < left + wide
                    and x + w > left
                    and y < top + high
                    and y + h > top
                ):
                    patch[:, max(y - top, 0) : y + h - top, max(x - left, 0) : x + w - left] = (
                        0  # hidden by a later one
                    )
        if ctx.needs_input_grad[0]:
            to_frames = gradient.clone()
            for frame, left, top, wide, high in ctx.spots:
                to_frames[frame, :, top : top + high, left : left + wide] = 0
        return to_frames, to_patches, None


def repaint(frames, boxes, anonymizer, size=256):
    """Crop every face, anonymize it, paste it back: lines 5-8 of Algorithm 1.

    frames (B, 3, H, W); boxes a list of B tensors (k_i, 4), already enlarged (`enlarge_boxes`); anonymizer any
    callable (K, 3, size, size) -> same shape, [-1, 1] both ways; size 256 is M's input (Sec. 4).
    Frames without a face come back unmodified, and the anonymizer is not called when there is no face at all.
    Raises ValueError as crop_faces and paste_faces do.
    """
    if sum(len(b) for b in boxes) == 0 and len(boxes) == len(frames):
        return frames
    return paste_faces(frames, anonymizer(crop_faces(frames, boxes, size)), boxes)


def _sampling_grid(pictures, landmarks, out_size):
    """Where in the pictures (B, 3, H, W) each aligned crop pixel comes from, in grid_sample's units: (B, h, w, 2)."""
    high, wide = pictures.shape[-2:]
    out_high, out_wide = out_size
    fit = similarity(landmarks, template(out_size))  # (B, 2, 3) picture -> crop

    # A sampler asks the other way round: crop -> picture. The inverse of [[a, -b], [b, a]] is its transpose divided by
    # its determinant a^2 + b^2.
    linear, shift = fit[:, :, :2], fit[:, :, 2:]  # (B, 2, 2), (B, 2, 1)
    inverse = linear.transpose(1, 2) / torch.det(linear)[:, None, None]  # (B, 2, 2)
    origin = -inverse @ shift  # (B, 2, 1) the crop's corner (0, 0), seen in the picture

    # affine_grid works in [-1, 1] on both sides: pixels = (unit + 1) * half, with half the size of the frame.
    half_out = landmarks.new_tensor([[out_wide / 2], [out_high / 2]])  # (2, 1)
    half_in = landmarks.new_tensor([[wide / 2], [high / 2]])  # (2, 1)
    unit_linear = inverse * half_out.T / half_in  # (B, 2, 2)
    unit_shift = (inverse @ half_out + origin) / half_in - 1  # (B, 2, 1)
    theta = _beside(torch.cat([unit_linear, unit_shift], -1), pictures)  # (B, 2, 3)
    return F.affine_grid(theta, [*pictures.shape[:2], out_high, out_wide], align_corners=False)


def _resize_matrix(low, high, start, length, size):
    """How much each crop pixel contributes to each frame pixel along one axis, for K boxes from low to high (K,).

    Row i is the frame pixel start (K,) + i, i < length; column j the crop pixel j < size; each row sums to 1.
    Beyond the outermost crop pixel's centre the rim's colour goes on. Returns (K, length, size).
    """
    pixel = (
        start[:, None] + torch.arange(length, device=low.device) + low.new_tensor(0.5)
    )  # (K, length) centres
    ratio = (size / (high - low))[:, None]  # (K, 1) crop pixels per frame pixel
    point = ((pixel - low[:, None]) * ratio).clamp(
        0.5, size - 0.5
    )  # (K, length) the centres, seen in the crop
    centres = torch.arange(size, device=low.device) + low.new_tensor(0.5)  # (size,)
    reach = ratio.clamp(min=1)[..., None]  # (K, 1, 1) half the tent's width
    tent = (1 - (point[..., None] - centres).abs() / reach).clamp(min=0)  # (K, length, size)
    return tent / tent.sum(-1, keepdim=True)


def _flatten_boxes(frames, boxes):
    """Check a list of B box tensors against frames; return all boxes (K, 4) and the frame index of each (K,).

    Both stay on the device of the boxes, and the rest of their arithmetic with them: see `_beside`.
    """
    if frames.ndim != 4 or len(boxes) != len(frames):
        raise ValueError(
            f"boxes has {len(boxes)} entries for frames of shape {tuple(frames.shape)}: give (B, 3, H, W) frames and "
            "a list of B box tensors"
        )
    for b in boxes:
        _check_shape(b)
    flat = torch.cat(list(boxes)).to(frames.dtype)  # (K, 4)
    frame_of = torch.repeat_interleave(torch.tensor([len(b) for b in boxes])).to(
        flat.device
    )  # (K,)
    height, width = frames.shape[-2:]
    limit = flat.new_tensor([width, height, width, height])
    inside = ((flat > -FRAME_SLACK) & (flat < limit + FRAME_SLACK)).all(
        1
    )  # (K,) a NaN compares false
    clipped = flat.clamp(min=0).minimum(limit)  # (K, 4)
    if not (
        inside & _have_area(flat) & _have_area(clipped)
    ).all():  # clipping can take the last of a sliver
        _check_boxes(flat)
        if not inside.all():
            row = int((~inside).nonzero()[0])
            raise ValueError(
                f"boxes: face {row} {flat[row].tolist()} leaves its {width} x {height} frame: clip it with enlarge_boxes"
            )
        _check_boxes(clipped)
    return clipped, frame_of


def _beside(coordinates, pictures):
    """Coordinates on the device of the pictures.

    Boxes and landmarks are few numbers, and checking them means to wait for an answer. Where they are kept on the CPU
    while the pictures lie on a GPU, the answer is there at once, and the GPU's queue of work never runs dry for it.
    """
    # Not to wait is safe on the way to a GPU only: on the way back, the numbers would be read before they have come.
    return coordinates.to(pictures.device, non_blocking=pictures.device.type != "cpu")


def _have_area(boxes):
    return (boxes[:, 2:] > boxes[:, :2]).all(1)  # (k, 4) -> (k,)


def _check_shape(boxes):
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"boxes must have shape (k, 4), got {tuple(boxes.shape)}: use zeros of (0, 4) for no face"
        )


def _check_boxes(boxes):
    """Raise ValueError unless boxes is (k, 4) and every row is finite with x1 < x2 and y1 < y2."""
    _check_shape(boxes)
    good = boxes.isfinite().all(1) & _have_area(boxes)  # (k,)
    if not good.all():
        row = int((~good).nonzero()[0])
        raise ValueError(
            f"boxes row {row} {boxes[row].tolist()} has no area or is not finite: drop it or give x1 < x2, y1 < y2"
        )
