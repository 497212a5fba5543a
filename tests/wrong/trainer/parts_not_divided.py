WRONG = "the gradients of a batch's parts add up and are not divided"
HINT = "divided by their number"
REPLACE = [
    (
        "optim.backward_and_step(loss / self.config.accumulate, learning, self.scaler, last)",
        "optim.backward_and_step(loss, learning, self.scaler, last)",
    )
]
