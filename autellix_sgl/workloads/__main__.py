"""``python -m autellix_sgl.workloads``."""

import sys

from autellix_sgl.workloads.cli import main

sys.exit(main())
