"""`accelerate launch -m lgm.training ...`: the same as `lgm train ...`."""

import sys

from .. import cli

raise SystemExit(cli.main(["train", *sys.argv[1:]]))
