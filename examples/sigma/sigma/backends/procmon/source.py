"""What YAML's reader passes over in the file of a rule."""

from functools import lru_cache
from pathlib import Path

import yaml

__all__ = ["repeated_key"]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@lru_cache(maxsize=8)  # the rules of one file follow each other
def repeated_key(path: Path) -> str | None:
    """A key that one map of the file has twice: YAML forbids it, and its reader forgets the first, so more matches."""
    try:
        todo = list(yaml.compose_all(path.read_text(encoding="utf-8"), Loader=_LOADER))
    except (OSError, ValueError, yaml.YAMLError):
        return None  # a rule that was not read from this file
    seen: set[int] = set()  # an alias can name a node many times, and a node that contains it
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
        elif isinstance(node, yaml.MappingNode):
            keys = [str(key.value) for key, _ in node.value]
            if twice := [key for key in keys if keys.count(key) > 1]:
                return twice[0]
            todo += [content for _, content in node.value]
    return None
