"""Algorithm 1: three players, three updates (paper Sec. 3, Alg. 1, eqs. 1-5).

`Game` holds one row of Table 1: an anonymizer (M, or any fixed one), the recogniser D and the action
detector A, and their optimizers. A step of the game is

    line 2      M(f) -> f'                               `anonymize`
    line 3      arg max_D L_adv                          `update_recognizer`
    lines 4-8   M(r_v) -> r_v', (v - r_v) + r_v' -> v'   `repaint`, inside
    line 9      arg min_{M,A} L_det + L_adv + lambda L1  `update_modifier_and_detector`
    line 11     arg min_A L_det, M and D frozen          `finetune_detector`

Each update moves only its own player's weights and buffers. A fixed anonymizer has nothing to learn, so in
its game line 9 reduces to A's part: "the only difference being the modification procedure" (Sec. 3.1) is
the constructor's argument.
"""

import copy
import dataclasses
import math
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ppad import figures, losses, ranks
from ppad.attacks import AngularRecognizer, aligned_crops, jittered, recoloured
from ppad.baselines import identity
from ppad.crop_sampler import repaint
from ppad.datasets import Batches, Feed
from ppad.detector import ActionDetector, DetectorConfig
from ppad.loop import Loop
from ppad.losses import ASoftmaxLoss
from ppad.modifier import Modifier, ModifierConfig
from ppad.speed import Speed
from ppad.sphereface import AngularMarginHead, SphereFace, SphereFaceConfig


def repainted_frames(frames, boxes, anonymizer, size: int) -> torch.Tensor:
    """v' (B, 3, H, W) of v. Un-anonymized frames are v itself: a crop pasted back would be a slight blur."""
    return frames if anonymizer is identity else repaint(frames, boxes, anonymizer, size)


def make_modifier(config) -> Modifier:
    """M as the preset sizes it."""
    return Modifier(
        ModifierConfig(
            width=config.modifier_width,
            blocks=config.modifier_blocks,
            size=config.face_size,
            upsample=config.modifier_upsample,
            light=config.modifier_light,
        )
    )


def make_recognizer(config, identities: int) -> AngularRecognizer:
    """D as the preset sizes it: SphereFace, angular-margin head, A-Softmax."""
    network = SphereFace(
        SphereFaceConfig(
            depth=config.recognizer_depth,
            width=config.recognizer_width,
            embedding=config.embedding,
            input_size=(config.recognizer_height, config.recognizer_breadth),
        )
    )
    margin = ASoftmaxLoss(
        m=config.margin,
        base=config.lambda_base,
        gamma=config.lambda_gamma,
        floor=config.lambda_floor,
        scale=config.recognizer_scale,
    )
    return AngularRecognizer(network, AngularMarginHead(config.embedding, identities), margin)


def make_detector(config, classes: int) -> ActionDetector:
    """A as the preset sizes it."""
    return ActionDetector(
        DetectorConfig(
            body=config.detector_body,
            classes=classes,
            weights=config.detector_weights or None,
            trainable_layers=config.detector_trainable,
            min_size=min(config.frame_height, config.frame_width),
            max_size=max(config.frame_height, config.frame_width),
        )
    )


class Game:
    """One row's three players and their three updates.

    Args:
        config: a preset. device: where the players and the pictures live.
        recognizer: D, an `AngularRecognizer` (trained on originals before the game). detector: A, likewise; None when
            only M and D play.
        anonymizer: M or any callable (B, 3, S, S) in [-1, 1] -> same.
    """

    def __init__(
        self,
        config,
        recognizer: AngularRecognizer,
        detector: ActionDetector | None,
        anonymizer,
        device="cpu",
    ):
        self.config, self.device = config, device
        self.recognizer, self.detector = recognizer.to(device), detector and detector.to(device)
        self.anonymizer = anonymizer.to(device) if isinstance(anonymizer, nn.Module) else anonymizer
        self.modifier_weights = (
            list(anonymizer.parameters()) if isinstance(anonymizer, nn.Module) else []
        )
        self.cap = config.adversarial_cap * math.log(
            recognizer.head.weight.shape[0]
        )  # see losses.modifier_adversarial
        self.speed, betas = Speed(config, device), (config.adam_beta1, config.adam_beta2)
        self.speed.prepare(self.recognizer.network)
        self.optimizers = {
            "recognizer": self.speed.adam(self.recognizer.parameters(), config.lr_recognizer, betas)
        }
        if detector is not None:
            ranks.join_norms(self.detector)
            bodies = (
                part for name, part in self.detector.named_modules() if name.endswith("backbone")
            )
            self.speed.prepare(
                next(bodies, self.detector)
            )  # A's proposals change shape each time: its body alone gains
            learning = [p for p in self.detector.parameters() if p.requires_grad]
            self.optimizers["detector"] = self.speed.adam(learning, config.lr_detector, betas)
        if self.modifier_weights:
            self.speed.prepare(self.anonymizer)
            self.optimizers["modifier"] = self.speed.adam(
                self.modifier_weights, config.lr_modifier, betas
            )

    def parts(self) -> dict:
        """Everything a checkpoint must hold, by name."""
        parts = {
            "recognizer": self.recognizer,
            **({} if self.detector is None else {"detector": self.detector}),
            **{f"{name}_optimizer": optimizer for name, optimizer in self.optimizers.items()},
            **self.speed.parts(),
        }
        if hasattr(self.anonymizer, "state_dict"):
            parts["anonymizer"] = self.anonymizer
        return parts

    def set_rates(self, number: int, steps: int) -> None:
        """The paper's schedule (Sec. 4): x0.1 once `lr_drop_at` of a stage's `steps` are done."""
        factor = 0.1 if number > self.config.lr_drop_at * steps else 1.0
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = factor * getattr(self.config, f"lr_{name}")

    def anonymize(self, pictures: torch.Tensor) -> torch.Tensor:
        """Line 2: f -> f' (B, 3, S, S), with the graph back to M when M can learn."""
        if self.modifier_weights:
            with self.speed.autocast():
                return self.anonymizer(pictures).float()
        with torch.no_grad():
            return self.anonymizer(pictures)

    def _repainted(self, frames, boxes):
        return repainted_frames(
            frames,
            boxes,
            identity if self.anonymizer is identity else self.anonymize,
            self.config.face_size,
        )

    def _loss_det(self, frames, targets):
        with self.speed.autocast():
            return losses.loss_det(self.detector.losses(frames, targets))

    def _loss_D(self, crops, identities, **how):
        with self.speed.autocast():
            return self.recognizer.loss(crops, identities, **how)

    def _crops(self, pictures, landmarks):
        size = (self.config.recognizer_height, self.config.recognizer_breadth)
        return aligned_crops(pictures, landmarks, size)  # (B, 3, h, w)

    def update_recognizer(self, pictures, modified, landmarks, identities) -> dict:
        """Line 3: D learns to name both f' and f (eq. 2; D maximises L_adv, that is, minimises both its losses).

        Args: pictures, modified (B, 3, S, S); landmarks (B, 5, 2); identities (B,).
        Moves D, its head and the margin's step; `modified` is cut from M's graph, so M cannot move.
        """
        self.recognizer.train()
        points = jittered(landmarks, self.config.landmark_jitter)
        crops = torch.cat(
            [self._crops(modified.detach(), points), self._crops(pictures, points)]
        )  # (2B, 3, h, w)
        each = self._loss_D(
            recoloured(crops, self.config.colour_jitter), identities.repeat(2), reduction="none"
        )
        on_modified, on_original = each.chunk(2)  # (B,), (B,)
        loss = -losses.loss_adv(on_modified.mean(), on_original.mean())
        if self._apply("recognizer", loss):
            self.recognizer.margin.advance()
        return {"D_modified": on_modified.mean(), "D_original": on_original.mean()}

    def update_modifier_and_detector(
        self, pictures, modified, landmarks, identities, frames, targets, boxes
    ) -> dict:
        """Line 9: M and A together minimise L_det + L_adv + lambda L1 (eq. 4); D is read, not moved.

        Args: as `update_recognizer`, `modified` with M's graph; frames (B', 3, H, W), targets and enlarged face
        boxes a frame. A fixed anonymizer leaves only L_det, for A.
        """
        self.detector.train()
        with torch.set_grad_enabled(bool(self.modifier_weights)):
            repainted = self._repainted(frames, boxes)  # v' (B', 3, H, W)
        detection = self._loss_det(repainted, targets)
        if not self.modifier_weights:
            self._apply("detector", detection)
            return {"L_det": detection}
        with _frozen(self.recognizer):
            terms = self._modifier_terms(pictures, modified, landmarks, identities)
            total = losses.full_objective(
                self.config.detection_weight * detection,
                self.config.adversarial_weight * terms["L_adv"],
                terms["L_l1"],
            )
            self._apply(("modifier", "detector"), total)
        return {"L_det": detection, **terms}

    def update_modifier(self, pictures, modified, landmarks, identities) -> dict:
        """Line 9 without A, for M's practice before the game: L_adv + lambda L1; D is read, not moved."""
        with _frozen(self.recognizer):
            terms = self._modifier_terms(pictures, modified, landmarks, identities)
            self._apply("modifier", self.config.adversarial_weight * terms["L_adv"] + terms["L_l1"])
        return terms

    def _modifier_terms(self, pictures, modified, landmarks, identities) -> dict:
        if self.speed.turns > 1:
            modified = self.anonymize(
                pictures
            )  # M's graph of a whole batch would not fit: of this part alone
        return {
            "L_adv": self.modifier_objective(modified, landmarks, identities),
            "L_l1": losses.loss_l1(modified, pictures, self.config.l1_weight),
        }

    def modifier_objective(self, modified, landmarks, identities) -> torch.Tensor:
        """M's adversarial term: gradient ascent on L_D, capped (eq. 2), or the random-label ablation (Sec. 5.6).

        L_D is read without its margin, which makes D's lesson harder and is no part of D's answer: only so does a D
        that knows nothing pay log N, the cap's unit.
        """
        crops = self._crops(modified, landmarks)
        if self.config.adversarial_target == "random":
            people = self.recognizer.head.weight.shape[0]
            return self._loss_D(
                crops, losses.random_label_targets(identities, people), margin=False
            )
        return losses.modifier_adversarial(
            self._loss_D(crops, identities, reduction="none", margin=False), self.cap
        )

    def finetune_detector(self, frames, targets, boxes) -> dict:
        """Line 11: A alone learns on repainted frames; M and D are frozen."""
        self.detector.train()
        with torch.no_grad():
            repainted = self._repainted(frames, boxes)
        detection = self._loss_det(repainted, targets)
        self._apply("detector", detection)
        return {"L_det": detection}

    def copy_faces(self, pictures) -> dict:
        """Before the game: M learns to copy (eq. 3 alone), so that line 3 first meets faces rather than noise (ours)."""
        loss = losses.loss_l1(self.anonymize(pictures), pictures, 1.0)
        self._apply("modifier", loss)
        return {"L_l1": loss}

    def _apply(self, names, loss: torch.Tensor) -> bool:
        return self.speed.descend(
            [self.optimizers[name] for name in ([names] if isinstance(names, str) else names)], loss
        )


@contextmanager
def _frozen(player: nn.Module):
    """`player` passes gradients on to its input and keeps its own weights and buffers as they are."""
    wanted, training = [p.requires_grad for p in player.parameters()], player.training
    player.eval().requires_grad_(False)
    try:
        yield
    finally:
        for parameter, want in zip(player.parameters(), wanted):
            parameter.requires_grad_(want)
        player.train(training)


def pretrain_detector(detector, actions, config, loop: Loop, device="cpu"):
    """A on original frames, before the game: the same update as line 11, with nothing repainted."""
    game = Game(config, make_recognizer(config, 2), detector, identity, device)
    batches = Batches(len(actions), config.batch_frames, seed=loop.seed)
    feed = Feed(actions, batches, device)

    def step(number: int) -> dict:
        game.set_rates(number, config.pretrain_detector_steps)
        return game.speed.in_parts(game.finetune_detector, *feed.next())

    loop.start(
        detector=detector,
        optimizer=game.optimizers["detector"],
        batches=batches,
        **game.speed.parts(),
    )
    loop.stage("detector", config.pretrain_detector_steps, step)
    return detector.eval()


def play(game: Game, faces, actions, config, loop: Loop) -> None:
    """One row from the pretrained start to the end of Algorithm 1: T1 adversarial steps, T2 for A alone.

    An M that learns starts from nothing, where D and A start trained. So it first copies faces, then practises
    against a partner, a copy of D that is thrown away afterwards (both ours): the game's D and A get exactly the
    updates that every other row's get.

    Args: faces: `datasets.FaceSet` F; actions: `datasets.ActionSet` V; loop: where the row lives.
    The order of F and V depends on the seed alone, so every row of a table sees the same data.
    """
    device, learns = game.device, bool(game.modifier_weights)
    face_batches = Batches(len(faces), config.batch_faces, seed=loop.seed)
    frame_batches = Batches(len(actions), config.batch_frames, seed=loop.seed)
    face_feed, frame_feed = Feed(faces, face_batches, device), Feed(actions, frame_batches, device)
    parts = dict(game.parts(), faces=face_batches, frames=frame_batches)
    if learns:
        copy_batches = Batches(
            len(faces), config.practice_faces, seed=loop.seed + 1
        )  # leaves the game's order alone
        copy_feed = Feed(faces, copy_batches, device)
        practice = dataclasses.replace(config, lr_modifier=config.lr_practice)
        partner = Game(practice, copy.deepcopy(game.recognizer), None, game.anonymizer, device)
        parts |= {
            f"partner_{name}": part
            for name, part in partner.parts().items()
            if name != "anonymizer"
        }
        parts["copies"] = copy_batches
    loop.start(**parts)
    shown, _, _ = faces.batch(
        torch.arange(0, len(faces), max(1, len(faces) // 8))[:8]
    )  # fixed, held for pictures

    def copy_faces(number: int) -> dict:
        partner.set_rates(0, 1)
        return partner.speed.in_parts(partner.copy_faces, copy_feed.next()[0])

    def lines_2_and_3(players: Game, feed: Feed):
        for turn in range(config.recognizer_updates):
            pictures, landmarks, identities = feed.next()
            last = turn == config.recognizer_updates - 1  # M answers D's last batch
            with torch.set_grad_enabled(last and config.accumulate == 1):
                modified = players.anonymize(pictures)
            terms = players.speed.in_parts(
                players.update_recognizer, pictures, modified, landmarks, identities
            )
        return terms, (pictures, modified, landmarks, identities)

    def practise(number: int) -> dict:
        partner.set_rates(number, config.practice_steps)  # most is learnt after the drop
        terms, seen = lines_2_and_3(partner, copy_feed)
        return terms | partner.speed.in_parts(partner.update_modifier, *seen)

    def adversarial(number: int) -> dict:
        game.set_rates(number, config.T1)
        terms, seen = lines_2_and_3(game, face_feed)
        return terms | game.speed.in_parts(
            game.update_modifier_and_detector, *seen, *frame_feed.next()
        )

    def finetune(number: int) -> dict:
        game.set_rates(number, config.T2)
        return game.speed.in_parts(game.finetune_detector, *frame_feed.next())

    def picture(stage: str, number: int) -> None:
        if learns and number % config.sample_every == 0 and ranks.first():
            after = game.anonymizer(shown.to(device)).cpu()
            path = Path(loop.folder) / f"sample_{stage}_{number:06d}.png"
            figures.contact_sheet(torch.cat([shown, after]), path, columns=len(shown))

    if learns:
        loop.stage("copy", config.pretrain_modifier_steps, copy_faces)
        loop.stage("practice", config.practice_steps, practise, after=partial(picture, "practice"))
    loop.stage("game", config.T1, adversarial, after=partial(picture, "game"))
    loop.stage("finetune", config.T2, finetune)
