WRONG = "torch's xavier, which averages fan_in and fan_out"
HINT = "torch's xavier_uniform_"
REPLACE = [
    ("    nn.init.uniform_(weight, -bound, bound)", "    nn.init.xavier_uniform_(weight)"),
]
