"""What the content of a file is known by."""

import hashlib
from pathlib import Path


def file_digest(file: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file of any size. Raises OSError for one that cannot be read."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, algorithm).hexdigest()
