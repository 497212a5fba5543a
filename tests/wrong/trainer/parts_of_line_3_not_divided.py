WRONG = "D's gradients of a batch's parts add up and are not divided"
HINT = "divided by their number"
REPLACE = [("self._learn(-L_adv, last", "self._learn(-L_adv * config.accumulate, last")]
