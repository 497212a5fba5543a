WRONG = "all pictures of a batch get the same noise"
HINT = "noise shared by the batch"
REPLACE = [
    ("draw = crops.new_empty(crops.shape)", "draw = crops.new_empty(crops.shape[1:])"),
]
