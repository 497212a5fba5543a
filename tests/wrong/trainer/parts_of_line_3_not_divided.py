WRONG = "D's gradients of a batch's parts add up and are not divided"
HINT = "divided by their number"
REPLACE = [("backward_and_step(-L_adv / config.accumulate", "backward_and_step(-L_adv")]
