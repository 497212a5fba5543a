"""A correct trainer, written another way.

Gradients are asked for by name (autograd.grad), so nothing is ever frozen; one Adam for all three
players, a group of settings each; no clipping; a row is a list of stages.
"""

import copy
import dataclasses
import math
from pathlib import Path

import torch
from torch import nn

from ppad import baselines, crop_sampler, datasets, figures, losses
from ppad.players import aligned_crops, jitter_colors, jitter_landmarks, make_recognizer


class Game:
    def __init__(self, config, recognizer, detector, anonymizer, device="cpu"):
        self.config = config
        self.device = device
        self.anonymizer = anonymizer
        self.recognizer = recognizer.to(device)
        self.detector = None if detector is None else detector.to(device)
        self.weights = {"recognizer": [*self.recognizer.parameters()]}
        if detector is not None:
            self.weights["detector"] = [p for p in self.detector.parameters() if p.requires_grad]
        if isinstance(anonymizer, nn.Module):
            anonymizer.to(device)
            self.weights["modifier"] = [*anonymizer.parameters()]
        self.modifier_weights = self.weights.get("modifier", [])
        self.people = len(recognizer.head.weight)
        groups = [
            {"params": weights, "lr": getattr(config, f"lr_{name}"), "name": name}
            for name, weights in self.weights.items()
        ]
        self.adam = torch.optim.Adam(groups, betas=(config.adam_beta1, config.adam_beta2))

    def parts(self):
        named = {
            "recognizer": self.recognizer,
            "detector": self.detector,
            "anonymizer": self.anonymizer,
            "adam": self.adam,
        }
        return {name: part for name, part in named.items() if hasattr(part, "state_dict")}

    def set_rates(self, number, steps):
        late = number > self.config.lr_drop_at * steps
        for group in self.adam.param_groups:
            group["lr"] = getattr(self.config, "lr_" + group["name"]) / (10 if late else 1)

    def _learn(self, loss, *names):
        """One step of these players' weights; all others have no gradient and stay as they are."""
        weights = [p for name in names for p in self.weights[name]]
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        for p, gradient in zip(weights, gradients):
            p.grad = gradient
        self.adam.step()
        self.adam.zero_grad()

    def _faces(self, pictures, landmarks):
        return aligned_crops(
            pictures, landmarks, (self.config.recognizer_height, self.config.recognizer_breadth)
        )

    def anonymize(self, pictures):
        return (
            self.anonymizer(pictures)
            if self.modifier_weights
            else self.anonymizer(pictures).detach()
        )

    def update_recognizer(self, pictures, modified, landmarks, identities):
        self.recognizer.train()
        where = jitter_landmarks(landmarks, self.config.landmark_jitter)
        terms = {}
        for name, faces in (("D_modified", modified.detach()), ("D_original", pictures)):
            seen = jitter_colors(self._faces(faces, where), self.config.color_jitter)
            terms[name] = self.recognizer.loss(seen, identities)
        self._learn(terms["D_modified"] + terms["D_original"], "recognizer")
        self.recognizer.margin.advance()
        return terms

    def update_modifier_and_detector(
        self, pictures, modified, landmarks, identities, frames, targets, boxes
    ):
        if not self.modifier_weights:
            return self.finetune_detector(frames, targets, boxes)
        self.detector.train()
        repainted = crop_sampler.repaint(frames, boxes, self.anonymizer)
        terms = {
            "L_det": sum(self.detector.losses(repainted, targets).values()),
            **self._terms(pictures, modified, landmarks, identities),
        }
        self._learn(
            self.config.detection_weight * terms["L_det"] + self._weighed(terms),
            "modifier",
            "detector",
        )
        return terms

    def update_modifier(self, pictures, modified, landmarks, identities):
        terms = self._terms(pictures, modified, landmarks, identities)
        self._learn(self._weighed(terms), "modifier")
        return terms

    def _terms(self, pictures, modified, landmarks, identities):
        distance = (modified - pictures).abs().mean()
        return {
            "L_adv": self.modifier_objective(modified, landmarks, identities),
            "L_l1": self.config.l1_weight * distance,
        }

    def _weighed(self, terms):
        return self.config.adversarial_weight * terms["L_adv"] + terms["L_l1"]

    def modifier_objective(self, modified, landmarks, identities):
        seen = self._faces(modified, landmarks)
        if self.config.adversarial_target == "random":
            return self.recognizer.loss(
                seen,
                losses.random_label_targets(identities, self.people),
                margin=self.config.adversarial_margin,
            )
        paid = self.recognizer.loss(
            seen, identities, reduction="none", margin=self.config.adversarial_margin
        )
        return -torch.minimum(
            paid, torch.full_like(paid, self.config.adversarial_cap * math.log(self.people))
        ).mean()

    def finetune_detector(self, frames, targets, boxes):
        self.detector.train()
        repainted = crop_sampler.repaint(frames, boxes, self.anonymizer).detach()
        loss = sum(self.detector.losses(repainted, targets).values())
        self._learn(loss, "detector")
        return {"L_det": loss}

    def copy_faces(self, pictures):
        loss = nn.functional.l1_loss(self.anonymizer(pictures), pictures)
        self._learn(loss, "modifier")
        return {"L_l1": loss}


class WarmUp(Game):
    def __init__(self, game):
        config = dataclasses.replace(game.config, lr_modifier=game.config.lr_warmup)
        rival = copy.deepcopy(game.recognizer)
        super().__init__(config, rival, None, game.anonymizer, game.device)
        self.past = datasets.KeptOutputs(512, config.face_size)

    def update_on_kept(self, *batch):
        if self.config.warmup_updates:
            self.past.add(*batch)
        for _ in range(self.config.warmup_updates):
            drawn = self.past.draw(len(batch[0]))
            self.update_recognizer(*(part.to(self.device) for part in drawn))


def pretrain_detector(detector, actions, config, loop, device="cpu"):
    game = Game(config, make_recognizer(config, 2), detector, baselines.identity, device)
    parts = {name: part for name, part in game.parts().items() if name != "recognizer"}
    loop.start(**parts)
    steps = config.pretrain_detector_steps
    stream = datasets.batches(
        actions, config.batch_frames, loop.seed, loop.done["detector"], device
    )
    for step in loop.steps("detector", steps):
        game.set_rates(step, steps)
        frames, targets, boxes = next(stream)
        loop.log(game.finetune_detector(frames, targets, boxes))
    return detector.eval()


def play(game, faces, actions, config, loop):
    rival = WarmUp(game)
    hidden = {f"rival_{name}": part for name, part in rival.parts().items() if name != "anonymizer"}
    loop.start(**game.parts(), **hidden, past=rival.past)
    shown = faces.batch(torch.arange(min(8, len(faces))))[0]
    done = loop.done

    def stream(data, size, seed, used):
        return datasets.batches(data, size, seed, used, game.device)

    updates = config.recognizer_updates
    face_stream = stream(faces, config.batch_faces, loop.seed, updates * done["game"])
    frame_stream = stream(actions, config.batch_frames, loop.seed, done["game"] + done["finetune"])

    def playing(step):
        game.set_rates(step, config.T1)
        for _ in range(updates):
            pictures, landmarks, identities = next(face_stream)
            modified = game.anonymize(pictures)
            terms = game.update_recognizer(pictures, modified, landmarks, identities)
        batch = (pictures, modified, landmarks, identities, *next(frame_stream))
        return {**terms, **game.update_modifier_and_detector(*batch)}

    def finetuning(step):
        game.set_rates(step, config.T2)
        return game.finetune_detector(*next(frame_stream))

    if game.modifier_weights:
        warm_up(rival, faces, loop, shown)
    for name, steps, body in (("game", config.T1, playing), ("finetune", config.T2, finetuning)):
        for step in loop.steps(name, steps):
            loop.log(body(step))
            if name == "game":
                sample(game, shown, loop, name, step)


def warm_up(game, faces, loop, shown):
    config = game.config
    used = loop.done["copy"] + config.recognizer_updates * loop.done["warmup"]
    stream = datasets.batches(faces, config.warmup_faces, loop.seed + 1, used, game.device)
    for _ in loop.steps("copy", config.pretrain_modifier_steps):
        loop.log(game.copy_faces(next(stream)[0]))
    for step in loop.steps("warmup", config.warmup_steps):
        for _ in range(config.recognizer_updates):
            pictures, landmarks, identities = next(stream)
            modified = game.anonymize(pictures)
            terms = game.update_recognizer(pictures, modified, landmarks, identities)
        loop.log(terms | game.update_modifier(pictures, modified, landmarks, identities))
        game.update_on_kept(pictures, modified, landmarks, identities)
        sample(game, shown, loop, "warmup", step)


@torch.no_grad()
def sample(game, shown, loop, stage, step):
    if game.modifier_weights and step % game.config.sample_every == 0:
        pictures = torch.cat([shown, game.anonymizer(shown.to(game.device)).cpu()])
        path = Path(loop.folder) / f"sample_{stage}_{step:06d}.png"
        figures.contact_sheet(pictures, path, columns=len(shown))
