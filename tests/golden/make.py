"""Makes the golden files beside it from the real bitsandbytes, PEFT, transformers and ggml (versions: requirements.txt).

    python make.py all            or one part:  nf4 | llama | bnb | variants | score | bert | encoders | small | gguf | train |
                                                lora_fa | ia3 | check

README.md says what each file holds. `check` recomputes logits with numpy alone and compares. The folder smollm2/ has
its own script. A second run with the same versions writes the same bytes."""

import importlib
import sys

import common  # noqa: F401  (first: it sets what torch reads when it is loaded)

PARTS = ["nf4", "llama", "bnb", "variants", "score", "bert", "encoders", "small", "gguf", "train", "lora_fa", "ia3", "check"]


def main(arguments):
    if len(arguments) != 1 or arguments[0] not in PARTS + ["all"]:
        sys.exit(__doc__)
    for part in PARTS if arguments[0] == "all" else arguments:
        print(part, flush=True)
        importlib.import_module("check" if part == "check" else f"make_{part}").run()


if __name__ == "__main__":
    main(sys.argv[1:])
