"""`accelerate launch -m lgm.training ...`: the same as `lgm train ...`."""

import sys

from ..command.main import main

raise SystemExit(main(["train", *sys.argv[1:]]))
