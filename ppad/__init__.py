"""Said before anything is imported: a torchvision made for another torch fails deep in itself."""

import re
import sys
from importlib import metadata


def misfit() -> str:
    """What is wrong with the installed torch and torchvision, and how to fix it; "" if nothing."""
    try:
        torch, torchvision = metadata.version("torch"), metadata.version("torchvision")
        needs = metadata.requires("torchvision") or []
    except metadata.PackageNotFoundError as error:
        return f"{error.name} is not installed: run pip install -r requirements.txt"
    for need in needs:
        wanted = re.match(r"torch *\(?== *(\d+\.\d+)\.", need)
        if wanted and not torch.startswith(f"{wanted[1]}."):
            fault = f"torchvision {torchvision} is made for torch {wanted[1]}, and torch is {torch}"
            return f"{fault}: run pip install --upgrade torch torchvision"
    return ""


if fault := misfit():
    print(fault, file=sys.stderr)
    sys.exit(2)
