"""``python -m autellix_sgl.doctor``."""

import sys

from autellix_sgl.doctor.command import main

sys.exit(main())
