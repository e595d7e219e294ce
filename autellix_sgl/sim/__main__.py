"""``python -m autellix_sgl.sim``."""

import sys

from autellix_sgl.sim.cli import main

sys.exit(main())
