"""A correct trainer, written another way: gradients are asked for by name (autograd.grad), so nothing is ever frozen; one
Adam for all three players, a group of settings each; no clipping; a row is a list of stages."""

import copy
import math
from pathlib import Path

import torch
from torch import nn

from ppad import baselines, crop_sampler, datasets, figures, losses
from ppad.attacks import AngularRecognizer, aligned_crops, jittered, recoloured
from ppad.detector import ActionDetector, DetectorConfig
from ppad.modifier import Modifier, ModifierConfig
from ppad.sphereface import AngularMarginHead, SphereFace, SphereFaceConfig


def repainted_frames(frames, boxes, anonymizer, size):
    if anonymizer is baselines.identity or not any(len(b) for b in boxes):
        return frames
    faces = crop_sampler.crop_faces(frames, boxes, size)
    return crop_sampler.paste_faces(frames, anonymizer(faces), boxes)


def make_modifier(config):
    names = {
        "width": "modifier_width",
        "blocks": "modifier_blocks",
        "size": "face_size",
        "upsample": "modifier_upsample",
        "light": "modifier_light",
    }
    return Modifier(
        ModifierConfig(**{mine: getattr(config, theirs) for mine, theirs in names.items()})
    )


def make_recognizer(config, identities):
    size = (config.recognizer_height, config.recognizer_breadth)
    body = SphereFaceConfig(
        depth=config.recognizer_depth,
        width=config.recognizer_width,
        embedding=config.embedding,
        input_size=size,
    )
    softmax = losses.ASoftmaxLoss(
        m=config.margin,
        base=config.lambda_base,
        gamma=config.lambda_gamma,
        floor=config.lambda_floor,
        scale=config.recognizer_scale,
    )
    return AngularRecognizer(
        SphereFace(body), AngularMarginHead(config.embedding, identities), softmax
    )


def make_detector(config, classes):
    sides = sorted([config.frame_height, config.frame_width])
    return ActionDetector(
        DetectorConfig(
            config.detector_body,
            classes,
            *sides,
            config.detector_weights or None,
            config.detector_trainable,
        )
    )


class Game:
    def __init__(self, config, recognizer, detector, anonymizer, device="cpu"):
        self.config, self.device, self.anonymizer = config, device, anonymizer
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
        """One step of these players' weights; everybody else's have no gradient and so stand still."""
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
        where = jittered(landmarks, self.config.landmark_jitter)
        terms = {}
        for name, faces in (("D_modified", modified.detach()), ("D_original", pictures)):
            seen = recoloured(self._faces(faces, where), self.config.colour_jitter)
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
        repainted = repainted_frames(frames, boxes, self.anonymizer, self.config.face_size)
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
                seen, losses.random_label_targets(identities, self.people), margin=False
            )
        paid = self.recognizer.loss(seen, identities, reduction="none", margin=False)
        return -torch.minimum(
            paid, torch.full_like(paid, self.config.adversarial_cap * math.log(self.people))
        ).mean()

    def finetune_detector(self, frames, targets, boxes):
        self.detector.train()
        repainted = repainted_frames(frames, boxes, self.anonymizer, self.config.face_size).detach()
        loss = sum(self.detector.losses(repainted, targets).values())
        self._learn(loss, "detector")
        return {"L_det": loss}

    def copy_faces(self, pictures):
        loss = nn.functional.l1_loss(self.anonymizer(pictures), pictures)
        self._learn(loss, "modifier")
        return {"L_l1": loss}


def pretrain_detector(detector, actions, config, loop, device="cpu"):
    game = Game(config, make_recognizer(config, 2), detector, baselines.identity, device)
    frames = datasets.Batches(len(actions), config.batch_frames, seed=loop.seed)
    loop.start(
        frames=frames, **{name: part for name, part in game.parts().items() if name != "recognizer"}
    )

    def step(number):
        game.set_rates(number, config.pretrain_detector_steps)
        return game.finetune_detector(*_moved(actions.batch(*frames.next()), device))

    loop.stage("detector", config.pretrain_detector_steps, step)
    return detector.eval()


def play(game, faces, actions, config, loop):
    partner = Game(config, copy.deepcopy(game.recognizer), None, game.anonymizer, game.device)
    streams = {
        "faces": datasets.Batches(len(faces), config.batch_faces, seed=loop.seed),
        "frames": datasets.Batches(len(actions), config.batch_frames, seed=loop.seed),
        "practice": datasets.Batches(len(faces), config.batch_faces, seed=loop.seed + 1),
    }
    hidden = {
        f"partner_{name}": part for name, part in partner.parts().items() if name != "anonymizer"
    }
    loop.start(**game.parts(), **streams, **hidden)
    shown = faces.batch(torch.arange(min(8, len(faces))))[0]

    def drawn(source, name):
        return _moved(source.batch(*streams[name].next()), game.device)

    def turn(who, name):
        for _ in range(config.recognizer_updates):
            pictures, landmarks, identities = drawn(faces, name)
            modified = who.anonymize(pictures)
            terms = who.update_recognizer(pictures, modified, landmarks, identities)
        return terms, (pictures, modified, landmarks, identities)

    def copying(number):
        return partner.copy_faces(drawn(faces, "practice")[0])

    def practising(number):
        terms, batch = turn(partner, "practice")
        return {**terms, **partner.update_modifier(*batch)}

    def playing(number):
        game.set_rates(number, config.T1)
        terms, batch = turn(game, "faces")
        return {**terms, **game.update_modifier_and_detector(*batch, *drawn(actions, "frames"))}

    def finetuning(number):
        game.set_rates(number, config.T2)
        return game.finetune_detector(*drawn(actions, "frames"))

    def snapshots(stage):
        def show(number):
            if game.modifier_weights and number % config.sample_every == 0:
                pictures = torch.cat([shown, game.anonymizer(shown.to(game.device)).cpu()])
                figures.contact_sheet(
                    pictures,
                    Path(loop.folder) / f"sample_{stage}_{number:06d}.png",
                    columns=len(shown),
                )

        return show

    stages = [
        ("game", config.T1, playing, snapshots("game")),
        ("finetune", config.T2, finetuning, None),
    ]
    if game.modifier_weights:
        stages = [
            ("copy", config.pretrain_modifier_steps, copying, None),
            ("practice", config.practice_steps, practising, snapshots("practice")),
            *stages,
        ]
    for name, steps, step, after in stages:
        loop.stage(name, steps, step, after=after)


def _moved(batch, device):
    if hasattr(batch, "to"):
        return batch.to(device)
    return (
        {k: _moved(v, device) for k, v in batch.items()}
        if isinstance(batch, dict)
        else [_moved(v, device) for v in batch]
    )
