"""pocketpipe: a network and a budget in, a verified binary out."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pocketpipe.delivery.loader import load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import pocketpipe` costs nothing and the loader pulls in neither torch nor kedro.
    if name == "load":
        from pocketpipe.delivery.loader import load

        return load
    raise AttributeError(f"module 'pocketpipe' has no attribute {name!r}")
