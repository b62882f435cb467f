"""The examples import this first: it finds procmon in this source tree if it is not installed."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("procmon") is None:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "src"))
