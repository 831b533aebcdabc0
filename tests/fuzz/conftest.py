"""Make the modules of this folder importable; pytest itself creates a package of its name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
