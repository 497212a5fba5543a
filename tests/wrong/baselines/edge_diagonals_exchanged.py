WRONG = "thinning compares with the wrong two corners, as if y pointed up"
HINT = "whose y points down"
REPLACE = [("gx * gy > 0", "gx * gy < 0")]
