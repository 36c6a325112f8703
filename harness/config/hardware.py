"""Tables of links: conf/hardware/NAME.yaml, or a file of the user's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.config.explain import nearest
from harness.config.places import available, conf_folder
from harness.plan.errors import UserError

KEYS = ("source", "per_node", "inside", "across", "price_per_device_hour")


def hardware_values(name: str) -> dict[str, Any]:
    """The values of a table by its name, or of a file that ends in .yaml; UserError unless it has the keys of one."""
    path = Path(name) if name.endswith(".yaml") else conf_folder() / "hardware" / f"{name}.yaml"
    if not path.is_file():
        names = available("hardware")
        raise UserError(
            f"unknown hardware {name!r}{nearest(name, names) or ''}: choose one of {', '.join(names)}, or give a "
            "file NAME.yaml"
        )
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"hardware {path.name} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(values, Mapping) or set(values) != set(KEYS):
        raise UserError(f"hardware {path.name} must have the keys {', '.join(KEYS)}")
    for level in ("inside", "across"):
        link = values[level]
        is_link = isinstance(link, Mapping) and set(link) == {"latency_s", "bytes_per_s"}
        numbers = is_link and all(isinstance(number, int | float) for number in link.values())
        if not (numbers or (level == "across" and link is None)):
            raise UserError(f"hardware {path.name}: {level} must be latency_s and bytes_per_s, two numbers")
    if not isinstance(values["per_node"], int) or isinstance(values["per_node"], bool):
        raise UserError(f"hardware {path.name}: per_node must be a whole number, not {values['per_node']!r}")
    return {"name": path.stem, **values}
