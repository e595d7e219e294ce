import sys

from autellix_sgl.sim.cli import main

sys.exit(main())
