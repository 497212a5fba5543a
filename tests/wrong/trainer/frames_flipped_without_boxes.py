WRONG = "the trainer mirrors half of the frames and leaves their boxes where they are"
HINT = "frames flipped"
REPLACE = [
    (
        "        loop.log(game.finetune_detector(*next(frame_batches)))  # lines 10-11\n",
        "        v, objects, regions = next(frame_batches)\n"
        "        loop.log(game.finetune_detector(v.flip(-1), objects, regions))\n",
    ),
]
