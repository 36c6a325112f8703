"""The total batch size of a run that others configured: a product such as per device x accumulation x devices (P30)."""

import math
import re
from collections.abc import Collection, Mapping
from typing import TypeGuard

# By the last part of a key. A run's total batch size needs one key of each kind whose value is not 1.
FACTORS = {
    "accumulation": re.compile(
        r"grad(ient)?_acc(um(ulation)?)?(_steps|_iters?)?|accumulat(e|ion)_grad(_batches|_steps)?|accum(ulation)?_steps?"
        r"|accumulation|accum_(freq|iter|grad)|update_freq"
    ),
    "devices": re.compile(
        r"_?(n|num|number_of)_?(gpus?|devices|processes|replicas|ranks)|world_size|gpus|devices|nproc(_per_node)?"
        r"|(gpus|devices)_per_node|(data_parallel|dp)_size"
    ),
    "nodes": re.compile(r"(n|num)_?nodes|nnodes"),
}
PER_DEVICE = re.compile(
    r".*per_(device|gpu|rank|worker|replica|process)(_.*)?|(train_)?(micro|device|local)_?batch(_size)?(_.*)?|mbs"
)
TOTAL = re.compile(r"(total|global|effective)(_train)?_?(batch(_?size)?|bs)|tbs|total_train_batch_size")
WORLD = re.compile(r"world_size|(n|num)_?processes|(n|num)_?ranks|(data_parallel|dp)_size")  # all nodes together


def factors(product: str) -> list[str]:
    """The keys and numbers of `a*b*4`."""
    return [part.strip() for part in product.split("*") if part.strip()]


def is_total(product: str) -> bool:
    """Whether a single key's name says that it is the total."""
    return len(factors(product)) == 1 and bool(TOTAL.fullmatch(_last(product)))


def missing_factors(product: str, settings: Mapping[str, object], ignored: Collection[str]) -> list[str]:
    """Keys of `settings` that a total batch size usually also depends on, and that are neither in the product nor 1."""
    keys = factors(product)
    if is_total(product):
        return []
    missing = []
    for kind, pattern in FACTORS.items():
        if any(_gives(kind, key) for key in keys):
            continue
        of_kind = [key for key in settings if pattern.fullmatch(_last(key)) and key not in ignored]
        missing += [key for key in of_kind if is_number(settings[key]) and settings[key] not in (0, 1)][:1]
    # `world_size` counts the devices of all nodes.
    whole = any(WORLD.fullmatch(_last(key)) for key in missing)
    return [key for key in missing if not (whole and FACTORS["nodes"].fullmatch(_last(key)))]


def lacks_devices(product: str) -> bool:
    """Whether it is a size per device without a number of devices."""
    keys = factors(product)
    return any(PER_DEVICE.fullmatch(_last(key)) for key in keys) and not any(_gives("devices", key) for key in keys)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number, and not a flag."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _gives(kind: str, key: str) -> bool:
    if key.isdigit():
        return kind in ("devices", "nodes")
    return bool(FACTORS[kind].fullmatch(_last(key))) or (kind == "nodes" and bool(WORLD.fullmatch(_last(key))))


def _last(key: str) -> str:
    return re.split(r"[./]", key.strip())[-1].strip().lower().replace(" ", "_").replace("-", "_")
