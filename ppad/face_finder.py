"""Faces in frames: SSH proposes, MTCNN confirms (paper Sec. 4, "Face Detection").

The paper: SSH "produces high recall but with some false positives. Therefore, we keep the detections with
probability greater than 0.8 and feed the rest into the MTCNN face detector to remove false positives by using it as
a binary classifier". Rules, of which each half can also be used alone:

    paper   SSH's boxes above 0.8, those that MTCNN takes for faces: clean boxes, for data sets
    either  what MTCNN finds, and what SSH finds besides it (above 0.5): misses least, for anonymizing
    mtcnn   MTCNN's whole cascade alone
    ssh     SSH's boxes above 0.8 alone, without landmarks

Decided here, as the paper leaves it open. "The rest" is read as the detections that are left, so MTCNN judges each
box above 0.8 (read the other way, it would judge the doubtful ones below). A box is handed over as the square about
it; R-net and O-net judge that square (P-net only proposes, which SSH has done). MTCNN may say yes or no, but
does not move the box: the box and score kept are SSH's, the landmarks are O-net's.
"""

import torch
from torchvision.ops import box_iou

from ppad.mtcnn import MTCNN
from ppad.ssh import SSH

RULES = ("paper", "either", "mtcnn", "ssh")
PAPER_SCORE = 0.8  # paper Sec. 4
RECALL_SCORE = 0.5  # ours: when a miss costs more than a false face, SSH need only think a face likelier than not
SAME_FACE = 0.3  # ours: SSH's own NMS threshold; above it two boxes are one face


class FaceFinder:
    """Finds faces by one of `RULES`.

    mtcnn, ssh: the detectors; None loads the default weights of each that the rule needs (ValueError, saying what to
    run, where they are missing). Any objects with the same `find` and `confirm` will do.
    """

    def __init__(self, mtcnn=None, ssh=None, rule="paper"):
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}; choose one of {', '.join(RULES)}")
        self.rule = rule
        self.mtcnn = MTCNN.load() if mtcnn is None and rule != "ssh" else mtcnn
        self.ssh = SSH.load() if ssh is None and rule != "mtcnn" else ssh

    def find(self, frames, every=1):
        """Faces in frames (B, H, W, 3) uint8 RGB, or in a list of (H, W, 3) whose sizes may differ.

        every: by rule "either", SSH looks at the first frame and every so many after it, for the frames of a movie
        whose boxes are then followed from frame to frame; MTCNN looks at each. By the other rules it says nothing.
        Returns a list of B dicts, best face first: boxes (k, 4) xyxy px (MTCNN's may reach over the edge); scores
        (k,) in [0, 1], of the detector whose box it is; landmarks (k, 5, 2) px, NaN under rule "ssh". k may be 0.
        ValueError when a frame is not (H, W, 3) uint8, or `every` is below 1.
        """
        if every < 1:
            raise ValueError(f"every is {every}; give 1 for all frames, or more")
        frames = [torch.as_tensor(f) if torch.is_tensor(f) else torch.tensor(f) for f in frames]
        for i, frame in enumerate(frames):
            if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != torch.uint8:
                raise ValueError(
                    f"frames[{i}] is {tuple(frame.shape)} {frame.dtype}; give (H, W, 3) uint8 RGB"
                )
        by_size, answers = {}, [None] * len(frames)
        for i, frame in enumerate(frames):
            by_size.setdefault(frame.shape, []).append(i)
        for indices in by_size.values():  # the detectors want one size at a time
            batch = torch.stack([frames[i] for i in indices])
            if self.rule == "either":
                found = self._either(
                    batch, [place for place, i in enumerate(indices) if i % every == 0]
                )
            else:
                found = getattr(self, f"_{self.rule}")(batch)
            for i, faces in zip(indices, found):
                order = faces["scores"].argsort(descending=True, stable=True)
                answers[i] = {key: value[order] for key, value in faces.items()}
        return answers

    def _mtcnn(self, frames):
        return self.mtcnn.find(frames)

    def _ssh(self, frames):
        found = self.ssh.find(frames, score=PAPER_SCORE)
        return [
            {**f, "landmarks": f["boxes"].new_full((len(f["boxes"]), 5, 2), float("nan"))}
            for f in found
        ]

    def _paper(self, frames):
        found = self.ssh.find(frames, score=PAPER_SCORE)
        judged = self.mtcnn.confirm(frames, [f["boxes"] for f in found])
        return [
            {
                "boxes": f["boxes"][j["face"]],
                "scores": f["scores"][j["face"]],
                "landmarks": j["landmarks"][j["face"]],
            }
            for f, j in zip(found, judged)
        ]

    def _either(self, frames, looked):
        """looked: the places of the frames that SSH is to look at."""
        found, own = self.mtcnn.find(frames), {}
        for place, ssh in zip(
            looked, self.ssh.find(frames[looked], score=RECALL_SCORE) if looked else []
        ):
            new = ~(box_iou(ssh["boxes"], found[place]["boxes"]) > SAME_FACE).any(
                1
            )  # SSH's own faces only
            if new.any():
                own[place] = {key: ssh[key][new] for key in ("boxes", "scores")}
        if own:  # for landmarks; MTCNN's verdict is not asked
            judged = self.mtcnn.confirm(frames[list(own)], [one["boxes"] for one in own.values()])
            for (place, one), verdict in zip(own.items(), judged):
                one["landmarks"] = verdict["landmarks"]
                found[place] = {
                    key: torch.cat([value, one[key]]) for key, value in found[place].items()
                }
        return found
