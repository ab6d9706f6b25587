"""RAC benchmark: does calibrating on a reasoning model's own thoughts make it compress better?

`rac.solve`, `rac.grade_math` and `rac.grade_code` are for others to import; they are loaded when
first used, so that `import rac` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rac.evaluate.code import grade_code as grade_code
    from rac.evaluate.math import grade_math as grade_math
    from rac.solvers import solve as solve

__version__ = "0.1.0"
__version__ = "0.1.0"

_HOME = {
    "solve": "rac.solvers",
    "grade_math": "rac.evaluate.math",
    "grade_code": "rac.evaluate.code",
}
__all__ = ["__version__", "grade_code", "grade_math", "solve"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rac' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
