WRONG = "convs inside the units start like all others"
HINT = "standard deviation 0.01"
REPLACE = [
    (
        "nn.init.normal_(conv_prelu[0].weight, mean=0.0, std=RESIDUAL_INIT_STD)",
        "_caffe_xavier(conv_prelu[0].weight)",
    ),
]
