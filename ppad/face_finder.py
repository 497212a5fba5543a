"""Faces in frames: SSH proposes, MTCNN confirms (paper Sec. 4, "Face Detection").

The paper: SSH "produces high recall but with some false positives. Therefore, we keep the
detections with probability greater than 0.8 and feed the rest into the MTCNN face detector to
remove false positives by using it as a binary classifier". The rules here:

    paper   SSH's boxes above 0.8 that MTCNN takes for faces: few false faces, for data sets
    either  what MTCNN finds, and what only SSH finds (above 0.5): few misses, for anonymizing
    mtcnn   MTCNN's whole cascade alone
    ssh     SSH's boxes above 0.8 alone, without landmarks

Decided here, as the paper leaves it open: "the rest" is read as the detections that remain, so that
MTCNN classifies each box above 0.8. R-net and O-net see the square about it; P-net only proposes,
which SSH has done. MTCNN does not move the box: box and score are SSH's, landmarks are O-net's.
"""

import numpy as np
import torch
from torchvision.ops import box_iou

from ppad.mtcnn import MTCNN
from ppad.ssh import SSH

RULES = ("paper", "either", "mtcnn", "ssh")
PAPER_SCORE = 0.8  # paper Sec. 4
RECALL_SCORE = 0.5  # ours: where a miss costs more than a false face
SAME_FACE = 0.3  # ours: IoU above which two boxes are one face; SSH's own NMS threshold


class FaceFinder:
    """Finds faces by one of `RULES`.

    mtcnn, ssh: the detectors, or any objects with the same `find` and `confirm`; None loads the
    default weights of those that the rule needs. ssh_score: SSH's least score, under "either".
    Raises ValueError for an unknown rule, or where weights are missing (it says what to run).
    """

    def __init__(self, mtcnn=None, ssh=None, rule="paper", ssh_score=RECALL_SCORE):
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}; choose one of {', '.join(RULES)}")
        self.rule = rule
        self.ssh_score = ssh_score
        self.mtcnn = MTCNN.load() if mtcnn is None and rule != "ssh" else mtcnn
        self.ssh = SSH.load() if ssh is None and rule != "mtcnn" else ssh

    def find(self, frames, every=1):
        """Faces in frames.

        Args:
            frames: (B, H, W, 3) uint8 RGB, or a list of (H, W, 3) whose sizes may differ.
            every: for movies under rule "either": SSH sees the first frame and every so many after
                it, MTCNN sees each. The other rules ignore it.

        Returns:
            A list of B dicts, best face first: boxes (k, 4) xyxy px (MTCNN's may reach over the
            edge); scores (k,) in [0, 1], of the detector whose box it is; landmarks (k, 5, 2) px,
            NaN under rule "ssh". k may be 0.

        Raises:
            ValueError: a frame is not (H, W, 3) uint8, or `every` is below 1.
        """
        if every < 1:
            raise ValueError(f"every is {every}; give 1 for all frames, or more")
        frames = [
            torch.as_tensor(frame if torch.is_tensor(frame) else np.array(frame))
            for frame in frames
        ]
        for i, frame in enumerate(frames):
            if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != torch.uint8:
                got = f"frames[{i}] is {tuple(frame.shape)} {frame.dtype}"
                raise ValueError(f"{got}; give (H, W, 3) uint8 RGB")
        by_size = {}  # the detectors take frames of one size
        for i, frame in enumerate(frames):
            by_size.setdefault(frame.shape, []).append(i)
        answers = [None] * len(frames)
        for indices in by_size.values():
            batch = torch.stack([frames[i] for i in indices])
            for_ssh = [place for place, i in enumerate(indices) if i % every == 0]
            for i, faces in zip(indices, self._find(batch, for_ssh)):
                order = faces["scores"].argsort(descending=True, stable=True)
                answers[i] = {name: values[order] for name, values in faces.items()}
        return answers

    def _find(self, frames, for_ssh):
        if self.rule == "mtcnn":
            return self.mtcnn.find(frames)
        if self.rule == "either":
            return self._either(frames, for_ssh)
        found = self.ssh.find(frames, score=PAPER_SCORE)
        if self.rule == "ssh":
            for faces in found:
                faces["landmarks"] = faces["boxes"].new_full((len(faces["boxes"]), 5, 2), torch.nan)
            return found
        confirmed = self.mtcnn.confirm(frames, [faces["boxes"] for faces in found])
        for faces, answer in zip(found, confirmed):
            faces["landmarks"] = answer["landmarks"]
            faces.update({name: values[answer["face"]] for name, values in faces.items()})
        return found

    def _either(self, frames, for_ssh):
        """MTCNN's faces, and those that SSH alone finds in the frames numbered `for_ssh`."""
        found = self.mtcnn.find(frames)
        only_ssh = {}
        by_ssh = self.ssh.find(frames[for_ssh], score=self.ssh_score) if for_ssh else []
        for place, faces in zip(for_ssh, by_ssh):
            known = box_iou(faces["boxes"], found[place]["boxes"]) > SAME_FACE  # (k, n)
            new = ~known.any(1)
            if new.any():
                only_ssh[place] = {name: faces[name][new] for name in ("boxes", "scores")}
        if only_ssh:
            boxes = [faces["boxes"] for faces in only_ssh.values()]
            confirmed = self.mtcnn.confirm(frames[list(only_ssh)], boxes)
            for (place, faces), answer in zip(only_ssh.items(), confirmed):
                faces["landmarks"] = answer["landmarks"]  # whether it is a face is not asked
                mtcnn = found[place]
                found[place] = {name: torch.cat([mtcnn[name], faces[name]]) for name in mtcnn}
        return found
