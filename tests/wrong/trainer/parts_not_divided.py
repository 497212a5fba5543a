WRONG = "the gradients of a batch's parts add up and are not divided"
HINT = "divided by their number"
LINE_9 = """                learning = [self.optimizers["modifier"], self.optimizers["detector"]]
                optim.backward_and_step(loss"""
REPLACE = [(f"{LINE_9} / config.accumulate", LINE_9)]
