"""Algorithm 1: three players, three updates (paper Sec. 3, Alg. 1, eqs. 1-5).

`Game` holds one row of Table 1: an anonymizer (M, or any fixed one), the recognizer D, the action
detector A, and their optimizers. A step of the game is

    line 2      M(f) -> f'                               `anonymize`
    line 3      arg max_D L_adv                          `update_recognizer`
    lines 4-8   M(r_v) -> r_v', (v - r_v) + r_v' -> v'   `crop_sampler.repaint`, inside
    line 9      arg min_{M,A} L_det + L_adv + lambda L1  `update_modifier_and_detector`
    line 11     arg min_A L_det, M and D frozen          `finetune_detector`

Each update changes only its own player's weights and buffers. With a fixed anonymizer, line 9
trains A alone, like line 11. So rows differ in the constructor's `anonymizer` only: "the only
difference being the modification procedure" (Sec. 3.1).

With `config.accumulate` above 1, an update adds up the gradients of parts of its batch and then
takes one step: the same gradients in less memory.
"""

import copy
import dataclasses
import math

import torch
from torch import nn
from torch.nn import functional as F

from ppad import datasets, figures, losses, optim
from ppad.baselines import identity
from ppad.crop_sampler import repaint
from ppad.loop import Loop
from ppad.players import CodeReader, Recognizer, aligned_crops, jitter_colors, jitter_landmarks

LR_CODE_READER = 1e-3  # ours: the same as attackers.LR_RECOGNIZER
READER_UPDATES = 2  # ours: per batch; the small reader must keep up with M
KEPT = 1024  # ours: outputs of M stored for D's copies: those of 128 steps of 8 faces


class Game:
    """One row's three players and their updates.

    Each player has its own Adam, with the config's betas and the player's learning rate. Each
    update returns its loss terms from before the step, name -> scalar: D_modified and D_original,
    or whichever of L_det, L_adv and L_l1 it uses.

    Args:
        config: a preset. device: where the players and the pictures are.
        recognizer: D, trained on originals before the game; None when only A learns.
        detector: A, trained likewise, in train or eval mode; None when only M and D learn.
        anonymizer: M or any callable (B, 3, S, S) in [-1, 1] -> same; its `.size`, if any, decides
            how frames are repainted, see `crop_sampler.repaint`.
    """

    def __init__(self, config, recognizer: Recognizer | None, detector, anonymizer, device="cpu"):
        self.config = config
        self.device = device
        self.recognizer = recognizer
        self.detector = detector
        self.anonymizer = anonymizer
        self.crop_size = config.crop_size
        self.autocast = optim.autocast(config, device)  # for forward passes
        self.scaler = optim.make_scaler(config, device)
        self.optimizers = {}
        betas = (config.adam_beta1, config.adam_beta2)
        players = {"recognizer": recognizer, "detector": detector, "modifier": anonymizer}
        for name, player in players.items():
            weights = player.parameters() if isinstance(player, nn.Module) else ()
            if any(weight.requires_grad for weight in weights):
                optim.prepare(player.to(device), config, device)
                lr = getattr(config, f"lr_{name}")
                self.optimizers[name] = optim.adam(player.parameters(), lr, config, betas)
        self.modifier_learns = "modifier" in self.optimizers
        self.exchange = None  # an `Exchange` if M is an `Exchanger` that learns
        if recognizer is not None:  # nats, see losses.modifier_adversarial
            self.cap = config.adversarial_cap * math.log(recognizer.head.weight.shape[0])

    def parts(self) -> dict:
        """Everything a checkpoint must hold, by name: players, optimizers, scaler."""
        parts = {"recognizer": self.recognizer, "scaler": self.scaler}
        if self.detector is not None:
            parts["detector"] = self.detector
        if hasattr(self.anonymizer, "state_dict"):  # M, or Noise, which counts its calls
            parts["anonymizer"] = self.anonymizer
        for name, optimizer in self.optimizers.items():
            parts[f"{name}_optimizer"] = optimizer
        if self.exchange is not None:
            parts["reader"] = self.exchange.reader
            parts["reader_optimizer"] = self.exchange.optimizer
        return parts

    def set_rates(self, step: int, steps: int) -> None:
        """The paper's rates (Sec. 4): x0.1 once a share `lr_drop_at` of `steps` is done."""
        factor = 0.1 if step > self.config.lr_drop_at * steps else 1.0
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = factor * getattr(self.config, f"lr_{name}")

    def anonymize(self, pictures: torch.Tensor) -> torch.Tensor:
        """Line 2: f -> f' (B, 3, S, S), with its autograd graph if M learns."""
        with self.autocast:
            return self.anonymizer(pictures).float()

    def update_recognizer(self, pictures, modified, landmarks, identities) -> dict:
        """Line 3: D learns to identify both f' and f (eq. 2).

        D maximizes L_adv, that is, it minimizes both of its losses. `modified` is detached, so M
        gets no gradient. The same jittered landmarks align f' and f.

        Args: pictures, modified (B, 3, S, S); landmarks (B, 5, 2); identities (B,).
        """
        config = self.config
        self.recognizer.train()
        terms = []
        parts = self._split(pictures, modified.detach(), landmarks, identities)
        for last, f, f_new, points, people in parts:
            points = jitter_landmarks(points, config.landmark_jitter)  # (B, 5, 2)
            faces = torch.cat([f_new, f])  # (2B, 3, S, S)
            crops = aligned_crops(faces, points.repeat(2, 1, 1), self.crop_size)  # (2B, 3, h, w)
            crops = jitter_colors(crops, config.color_jitter)
            with self.autocast:
                per_face = self.recognizer.loss(crops, people.repeat(2), reduction="none")  # (2B,)
            on_modified, on_original = per_face.view(2, -1).mean(dim=1)
            L_adv = losses.loss_adv(on_modified, on_original)
            if last:
                self.recognizer.margin.advance()  # the margin counts D's updates
            learning = [self.optimizers["recognizer"]]
            optim.backward_and_step(-L_adv / config.accumulate, learning, self.scaler, last)
            terms.append({"D_modified": on_modified, "D_original": on_original})
        return _mean_terms(terms)

    def update_modifier_and_detector(
        self, pictures, modified, landmarks, identities, frames, targets, boxes
    ) -> dict:
        """Line 9: M and A together minimize L_det + L_adv + lambda L1 (eq. 4); D is frozen.

        The config weights L_det and L_adv. With a fixed anonymizer, only A learns, from L_det.

        Args: as in `update_recognizer`, `modified` with M's graph; frames (B', 3, H, W); targets
            and squares r_v of each frame.
        """
        if not self.modifier_learns:
            return self.finetune_detector(frames, targets, boxes)
        config = self.config
        self.detector.train()
        terms = []
        parts = self._split(pictures, modified, landmarks, identities, frames, targets, boxes)
        with optim.frozen(self.recognizer):
            for last, f, f_new, points, people, v, objects, regions in parts:
                if config.accumulate > 1:
                    f_new = self.anonymize(f)  # a whole batch's graph may not fit
                with self.autocast:
                    v_new = repaint(v, regions, self.anonymizer)  # lines 4-8
                    L_det = losses.loss_det(self.detector.losses(v_new, objects))
                L_adv = self.modifier_objective(f_new, points, people)
                if self.exchange is None:
                    L_l1 = losses.loss_l1(f_new, f, config.l1_weight)
                else:  # M must copy f when it is given the true person
                    L_l1 = self.exchange.objective(self.anonymizer, f, points, people)
                loss = losses.full_objective(
                    config.detection_weight * L_det, config.adversarial_weight * L_adv, L_l1
                )
                learning = [self.optimizers["modifier"], self.optimizers["detector"]]
                optim.backward_and_step(loss / config.accumulate, learning, self.scaler, last)
                terms.append({"L_det": L_det, "L_adv": L_adv, "L_l1": L_l1})
        if self.exchange is not None:
            self.exchange.update_reader(self.anonymizer, pictures, identities, self.scaler)
        return _mean_terms(terms)

    def update_modifier(self, pictures, modified, landmarks, identities) -> dict:
        """Line 9 in the warm-up: M minimizes adversarial_weight L_adv + lambda L1; D is frozen."""
        config = self.config
        terms = []
        parts = self._split(pictures, modified, landmarks, identities)
        with optim.frozen(self.recognizer):
            for last, f, f_new, points, people in parts:
                if config.accumulate > 1:
                    f_new = self.anonymize(f)
                L_adv = self.modifier_objective(f_new, points, people)
                L_l1 = losses.loss_l1(f_new, f, config.l1_weight)
                loss = config.adversarial_weight * L_adv + L_l1
                learning = [self.optimizers["modifier"]]
                optim.backward_and_step(loss / config.accumulate, learning, self.scaler, last)
                terms.append({"L_adv": L_adv, "L_l1": L_l1})
        return _mean_terms(terms)

    def modifier_objective(self, modified, landmarks, identities) -> torch.Tensor:
        """M's adversarial term: ascent on L_D (eq. 2), the ablation (Sec. 5.6), or one of ours.

        The small presets cap L_D and leave out its margin (`adversarial_margin`): only without
        margin does a D at chance have the loss log N, the cap's unit.
        """
        crops = aligned_crops(modified, landmarks, self.crop_size)  # (B, 3, h, w)
        target = self.config.adversarial_target
        if target in ("entropy", "non_saturating"):
            with self.autocast:
                logits = self.recognizer.logits(crops)  # (B, N)
            if target == "entropy":
                return losses.modifier_entropy(logits)
            return losses.modifier_non_saturating(logits, identities)
        random = target == "random"
        if random:
            identities = losses.random_label_targets(identities, len(self.recognizer.head.weight))
        with self.autocast:
            per_face = self.recognizer.loss(  # (B,)
                crops, identities, reduction="none", margin=self.config.adversarial_margin
            )
        return per_face.mean() if random else losses.modifier_adversarial(per_face, self.cap)

    def finetune_detector(self, frames, targets, boxes) -> dict:
        """Line 11: A alone learns on repainted frames; M and D are frozen."""
        self.detector.train()
        terms = []
        for last, v, objects, regions in self._split(frames, targets, boxes):
            with torch.no_grad(), self.autocast:
                v_new = repaint(v, regions, self.anonymizer)  # (B', 3, H, W)
            with self.autocast:
                L_det = losses.loss_det(self.detector.losses(v_new, objects))
            learning = [self.optimizers["detector"]]
            optim.backward_and_step(L_det / self.config.accumulate, learning, self.scaler, last)
            terms.append({"L_det": L_det})
        return _mean_terms(terms)

    def copy_faces(self, pictures) -> dict:
        """Before the game (ours): M learns to copy (eq. 3), so that D meets faces, not noise."""
        terms = []
        for last, f in self._split(pictures):
            L_l1 = losses.loss_l1(self.anonymize(f), f, 1.0)
            learning = [self.optimizers["modifier"]]
            optim.backward_and_step(L_l1 / self.config.accumulate, learning, self.scaler, last)
            terms.append({"L_l1": L_l1})
        return _mean_terms(terms)

    def copy_people(self, pictures, landmarks, identities) -> dict:
        """Before the game (ours): an M that is given the person learns by `Exchange.objective`."""
        terms = []
        for last, f, points, people in self._split(pictures, landmarks, identities):
            L_copy = self.exchange.objective(self.anonymizer, f, points, people)
            learning = [self.optimizers["modifier"]]
            optim.backward_and_step(L_copy / self.config.accumulate, learning, self.scaler, last)
            terms.append({"L_copy": L_copy})
        self.exchange.update_reader(self.anonymizer, pictures, identities, self.scaler)
        return _mean_terms(terms)

    def _split(self, *batch) -> list:
        """Split tensors and lists into `accumulate` parts, each [is it the last?, *pieces]. Raises
        ValueError if `accumulate` does not divide the number of pictures."""
        parts = self.config.accumulate
        split = []
        for number in range(parts):
            part = [number == parts - 1]
            for x in batch:
                size, rest = divmod(len(x), parts)
                if rest:
                    raise ValueError(f"accumulate is {parts}: it must divide a batch of {len(x)}")
                part.append(x[number * size : (number + 1) * size])
            split.append(part)
        return split


def _mean_terms(terms: list[dict]) -> dict:
    """Each term's mean over the parts of a batch, detached."""
    means = dict.fromkeys(terms[0], 0)
    for part in terms:
        for name, value in part.items():
            means[name] = means[name] + value.detach() / len(terms)
    return means


class Exchange:
    """What trains an `Exchanger` (ours): the people's embeddings, and a reader of its code.

    Args: recognizer: D before the game; its mean embeddings of `faces` (`datasets.FaceSet`)
        represent the people.
    """

    def __init__(self, config, recognizer, faces, device="cpu"):
        self.config = config
        self.device = device
        self.autocast = optim.autocast(config, device)
        people = mean_embeddings(recognizer, faces, config, device)  # (N, E)
        self.reader = CodeReader(config.face_size // 4, people).to(device)
        self.optimizer = optim.adam(self.reader.parameters(), LR_CODE_READER, config)

    def objective(self, modifier, pictures, landmarks, identities) -> torch.Tensor:
        """M must copy each face, given the true person and a code that identifies nobody.

        Terms: L1 (eq. 3) of pixels, and of differences of neighbors for sharp edges; the
        information in the code; the reader's success; M's error in predicting landmarks.
        """
        config = self.config
        people = self.reader.people[identities.to(self.device, non_blocking=True)]  # (B, E)
        noise, shift, ellipses = modifier.draw_noise(len(pictures))
        landmarks = landmarks.to(self.device, non_blocking=True)
        with self.autocast:
            code = modifier.encode(pictures).float()  # (B, 24, S/4, S/4)
            noisy = code + noise
            copied = modifier.decode(pictures, noisy, landmarks + shift, people, ellipses)
            located = modifier.locate(pictures)  # (B, 5, 2)
        L_l1 = losses.loss_l1(copied, pictures, config.l1_weight)
        L_slopes = sum(
            losses.loss_l1(copied.diff(dim=axis), pictures.diff(dim=axis), config.l1_weight / 2)
            for axis in (2, 3)
        )
        with optim.frozen(self.reader):
            L_reader = losses.modifier_non_saturating(self.read(noisy), identities)
        L_code = config.code_weight * modifier.nats(code)
        L_landmarks = F.smooth_l1_loss(located, landmarks)  # px
        return L_l1 + L_slopes + L_code + config.reader_weight * L_reader + L_landmarks

    def read(self, noisy: torch.Tensor) -> torch.Tensor:
        """The reader's logits (B, N) for noisy codes."""
        with self.autocast:
            return self.reader(noisy).float()

    def update_reader(self, modifier, pictures, identities, scaler) -> None:
        """Train the reader on a batch after M: before M, it would have memorized these faces."""
        with self.autocast, torch.no_grad():
            noise, _, _ = modifier.draw_noise(len(pictures))
            noisy = modifier.encode(pictures).float() + noise  # (B, 24, S/4, S/4)
        people = identities.to(self.device, non_blocking=True)  # (B,)
        for _ in range(READER_UPDATES):
            loss = F.cross_entropy(self.read(noisy), people)
            optim.backward_and_step(loss, [self.optimizer], scaler)


@torch.no_grad()
def mean_embeddings(recognizer, faces, config, device="cpu") -> torch.Tensor:
    """D's mean embedding of each person, (N, E), with mean 0 over people and variance 1 overall."""
    people = int(faces.identities.max()) + 1
    sums = torch.zeros(people, config.embedding, device=device)
    with optim.frozen(recognizer):
        for indices in torch.arange(len(faces)).split(config.eval_batch):
            pictures, landmarks, identities = faces.batch(indices, device=device)
            crops = aligned_crops(pictures, landmarks, config.crop_size)  # (B, 3, h, w)
            features = recognizer(crops).float()  # (B, E)
            sums.index_add_(0, identities.to(device), F.normalize(features))
    means = F.normalize(sums)  # (N, E): each person counts the same
    means = means - means.mean(dim=0)
    return means / means.std()


def pretrain_detector(detector, actions, config, loop: Loop, device="cpu"):
    """Train A on originals before the game: line 11 without repainting. Returns A in eval mode."""
    game = Game(config, None, detector, identity, device)
    loop.start(detector=detector, optimizer=game.optimizers["detector"], scaler=game.scaler)
    done = loop.done["detector"]
    frames = datasets.batches(actions, config.batch_frames, loop.seed, done, device)
    for step in loop.steps("detector", config.pretrain_detector_steps):
        game.set_rates(step, config.pretrain_detector_steps)
        loop.log(game.finetune_detector(*next(frames)))
    return detector.eval()


def play(game: Game, faces, actions, config, loop: Loop) -> None:
    """Algorithm 1: T1 adversarial steps, then T2 for A alone. M warms up first (`warm_up`).

    The order of F and V depends on the seed alone: every row sees the same data, resumed or not.

    Args: faces: `datasets.FaceSet` F; actions: `datasets.ActionSet` V; loop: it saves the row.
    """
    if game.modifier_learns and config.modifier_exchange:
        game.exchange = Exchange(config, game.recognizer, faces, game.device)
        game.anonymizer.meet(game.exchange.reader.people, faces.landmarks)
    parts = game.parts()
    if game.modifier_learns:
        warmup_game = WarmUp(game)
        extra = warmup_game.parts().items()  # M and other parts are in both games
        parts |= {f"warmup_{name}": part for name, part in extra if part not in parts.values()}
    loop.start(**parts)
    eight = torch.arange(0, len(faces), max(1, len(faces) // 8))[:8]
    samples = faces.batch(eight)[0]  # (8, 3, S, S)
    if game.modifier_learns:
        warm_up(warmup_game, faces, loop, samples)

    start = loop.done["game"] * config.recognizer_updates
    face_batches = datasets.batches(faces, config.batch_faces, loop.seed, start, game.device)
    start = loop.done["game"] + loop.done["finetune"]
    frame_batches = datasets.batches(actions, config.batch_frames, loop.seed, start, game.device)

    for step in loop.steps("game", config.T1):
        game.set_rates(step, config.T1)
        for update in range(config.recognizer_updates):
            f, landmarks, people = next(face_batches)
            last = update == config.recognizer_updates - 1  # line 9 uses this batch, too
            with torch.set_grad_enabled(last and config.accumulate == 1):
                modified = game.anonymize(f)  # line 2
            terms = game.update_recognizer(f, modified, landmarks, people)  # line 3
        terms |= game.update_modifier_and_detector(  # lines 4-9
            f, modified, landmarks, people, *next(frame_batches)
        )
        loop.log(terms)
        if game.modifier_learns:
            _save_samples(game, samples, loop, "game", step)

    for step in loop.steps("finetune", config.T2):
        game.set_rates(step, config.T2)
        loop.log(game.finetune_detector(*next(frame_batches)))  # lines 10-11


class WarmUp(Game):
    """M against throwaway copies of D, without A, at the warm-up's learning rate (ours).

    M meets the copies in turn. Every `warmup_restart` steps one of them is reset to D. They can
    also learn from earlier outputs of M (`warmup_updates`), without a forward pass of M.
    """

    def __init__(self, game: Game):
        config = dataclasses.replace(game.config, lr_modifier=game.config.lr_warmup)
        needs_D = config.warmup_steps and game.exchange is None
        recognizer = copy.deepcopy(game.recognizer) if needs_D else game.recognizer
        super().__init__(config, recognizer, None, game.anonymizer, game.device)
        self.start = game.recognizer
        extra_games = [
            Game(config, copy.deepcopy(game.recognizer), None, identity, game.device)
            for _ in range(1, config.warmup_recognizers)
        ]
        self.copies = [(g.recognizer, g.optimizers["recognizer"]) for g in (self, *extra_games)]
        self.kept = datasets.KeptOutputs(KEPT if config.warmup_updates else 0, config.face_size)
        self.exchange = game.exchange

    def parts(self) -> dict:
        """The parts of `Game`, the other copies of D and the stored outputs."""
        parts = super().parts() | {"kept": self.kept}
        for number, (recognizer, adam) in enumerate(self.copies[1:], start=2):
            parts[f"recognizer_{number}"] = recognizer
            parts[f"recognizer_{number}_optimizer"] = adam
        return parts

    def meet(self, step: int) -> None:
        """Choose the copy of D for this step."""
        self.recognizer, self.optimizers["recognizer"] = self.copies[step % len(self.copies)]

    def restart(self, step: int) -> None:
        """Reset one copy to D, if a restart is due after `step`."""
        every = self.config.warmup_restart
        if every and step % every == 0:
            recognizer, adam = self.copies[step // every % len(self.copies)]
            recognizer.load_state_dict(self.start.state_dict())
            adam.state.clear()

    def update_on_kept(self, pictures, modified, landmarks, identities) -> None:
        """Store a batch, then update D `warmup_updates` times on random stored faces."""
        if not self.config.warmup_updates:
            return
        self.kept.add(pictures, modified, landmarks, identities)
        for _ in range(self.config.warmup_updates):
            batch = self.kept.draw(len(pictures))
            self.update_recognizer(*(part.to(self.device) for part in batch[:2]), *batch[2:])


def warm_up(game: Game, faces, loop: Loop, shown: torch.Tensor) -> None:
    """Before the game, M learns to copy faces and then plays against copies of D (ours).

    The game's own D and A do not change: they get exactly the same updates as in every other row.
    An M that is given the person learns against the reader of its code instead of D.

    Args: game: `WarmUp`. faces, loop: as in `play`. shown: (n, 3, S, S), for sample sheets.
    """
    config = game.config
    done = loop.done
    start = done["copy"] + done["warmup"] * config.recognizer_updates + done["exchange"]
    seed = loop.seed + 1  # not the game's order
    batches = datasets.batches(faces, config.warmup_faces, seed, start, game.device)

    if game.exchange is not None:
        for step in loop.steps("exchange", config.exchange_steps):
            loop.log(game.copy_people(*next(batches)))
            _save_samples(game, shown, loop, "exchange", step)
        return

    for _ in loop.steps("copy", config.pretrain_modifier_steps):
        f, _, _ = next(batches)
        loop.log(game.copy_faces(f))

    for step in loop.steps("warmup", config.warmup_steps):
        game.meet(step)
        game.set_rates(step, config.warmup_steps)
        for update in range(config.recognizer_updates):
            f, landmarks, people = next(batches)
            last = update == config.recognizer_updates - 1
            with torch.set_grad_enabled(last and config.accumulate == 1):
                modified = game.anonymize(f)
            terms = game.update_recognizer(f, modified, landmarks, people)
        terms |= game.update_modifier(f, modified, landmarks, people)
        game.update_on_kept(f, modified, landmarks, people)
        game.restart(step)
        loop.log(terms)
        _save_samples(game, shown, loop, "warmup", step)


@torch.no_grad()
def _save_samples(game: Game, faces: torch.Tensor, loop: Loop, stage: str, step: int) -> None:
    """Every `sample_every` steps, save a sheet of `faces` (n, 3, S, S) and M's outputs."""
    if step % game.config.sample_every == 0 and optim.is_main_process():
        gpus = [game.device] if str(game.device).startswith("cuda") else []
        with torch.random.fork_rng(gpus):  # M's random draws must not affect the training
            after = game.anonymizer(faces.to(game.device)).cpu()  # (n, 3, S, S)
        path = loop.folder / f"sample_{stage}_{step:06d}.png"
        figures.contact_sheet(torch.cat([faces, after]), path, columns=len(faces))
