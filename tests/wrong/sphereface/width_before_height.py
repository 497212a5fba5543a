WRONG = "faces are expected as (B, 3, width, height)"
HINT = "in this order"
REPLACE = [
    ("wanted = (3, *self.config.input_size)", "wanted = (3, *self.config.input_size[::-1])"),
]
