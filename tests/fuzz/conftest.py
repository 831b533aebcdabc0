"""Let the modules beside this file find each other: not as a package, since pytest makes one of that name itself."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
