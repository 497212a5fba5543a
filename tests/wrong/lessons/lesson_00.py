"""Wrong answers to the exercises of lesson 00, with words that the message must contain."""

import torch


def channels_last(image):  # forgot to permute
    return torch.from_numpy(image).float() / 127.5 - 1


def transposed(image):  # .T also swaps height and width
    return torch.from_numpy(image.T.copy()).float() / 127.5 - 1


def zero_to_one(image):  # the habit of torchvision's ToTensor
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def not_scaled(image):  # still bytes, though float
    return torch.from_numpy(image).permute(2, 0, 1).float()


def in_double_precision(image):  # numpy divides bytes into float64
    return torch.from_numpy(image / 127.5 - 1).permute(2, 0, 1)


def forgot_return(image):  # computes, returns nothing
    torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1


def better_in_any(a, b):  # one better number is not enough
    return a[0] > b[0] or a[1] > b[1]


def low_error_is_good(a, b):  # thinks of the error as a mistake of the anonymizer
    return a[0] >= b[0] and a[1] <= b[1] and a != b


def sum_of_both(a, b):  # adds the two numbers
    return a[0] + a[1] > b[0] + b[1]


def strictly_better(a, b):  # forgets ties
    return a[0] > b[0] and a[1] > b[1]


def equals_count(a, b):  # counts equality as better
    return a[0] >= b[0] and a[1] >= b[1]


WRONG = {
    "check_to_network": [
        (channels_last, "channels must come first"),
        (transposed, "changed places"),
        (zero_to_one, "run from 0 to 1"),
        (not_scaled, "255 becomes 1"),
        (in_double_precision, "float32"),
        (forgot_return, "return its result"),
    ],
    "check_beats": [
        (better_in_any, "b hides people better"),
        (low_error_is_good, "a is better in both"),
        (sum_of_both, "do not add"),
        (strictly_better, "is enough"),
        (equals_count, "an equal is not beaten"),
    ],
}
