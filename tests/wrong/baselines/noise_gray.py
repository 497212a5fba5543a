WRONG = "one draw for the three channels: the color stays"
HINT = "gray noise"
REPLACE = [
    (
        "draw = crops.new_empty(crops.shape)",
        "draw = crops.new_empty(len(crops), 1, *crops.shape[2:])",
    ),
]
