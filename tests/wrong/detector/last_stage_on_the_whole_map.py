WRONG = "the paper's body gives proposals a map of half the stride-16 map's size"
HINT = "one map of stride 16"
REPLACE = [
    (
        "backbone = nn.Sequential(*stages[:4])  #",
        "backbone = nn.Sequential(*stages[:4], nn.MaxPool2d(2))  #",
    )
]
