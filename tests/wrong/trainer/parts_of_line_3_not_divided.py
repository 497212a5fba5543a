WRONG = "D's gradients of a batch's parts add up and are not divided"
HINT = "divided by their number"
REPLACE = [("loss = -L_adv / config.accumulate", "loss = -L_adv")]
