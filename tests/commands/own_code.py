"""A project folder of a clumsy user: configuration files and classes that fail in every way the commands can meet."""

from pathlib import Path

# Every one of these modules fails when it is imported.
FAIL_ON_IMPORT = {
    "exits": "import sys\nsys.exit(3)\n",
    "raises": "raise RuntimeError('first line\\nsecond line')\n",
    "syntax": "class Two:\n    def trials(self, records)\n",
    "needs": "import math\nimport nowhere_to_be_found\n",
    "cannot": "from own_code_that_fails import Nothing\n",
    "nope": "from experiments.nope import Nope\n",
    "undefined": "\n\nsizes = [undefined]\n",
    "library": "import json\n\njson.loads('{')\n",
    "bare": "raise ImportError\n",
    "nameless": "raise ModuleNotFoundError('No module', name=None)\n",
    "base": "class Panic(BaseException):\n    pass\n\nraise Panic('not an Exception')\n",
    "silent": "class Silent(Exception):\n    def __str__(self):\n        raise ValueError\n\nraise Silent\n",
}

OWN = """
import sys

import torch
from torch import nn

from harness.datasets.examples import Splits, TensorExamples


class NoneData:
    def load(self): return None
class RaisingData:
    def load(self): raise RuntimeError("disk on fire")
class ExitingData:
    def load(self): sys.exit(3)
class TupleData:
    def load(self): return (1, 2, 3)
class HollowData:
    def load(self): return Splits(None, None, None, "x")
class EmptyData:
    def load(self):
        nothing = TensorExamples(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        return Splits(nothing, nothing, nothing, "x")
class UnloadableData: pass

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
    def forward(self, images): return self.layer(images.flatten(1))
class RaisingModel(nn.Module):
    def __init__(self): raise RuntimeError("no model")
class ExitingModel(nn.Module):
    def __init__(self): sys.exit(0)
class ExitingForward(Model):
    def forward(self, images): sys.exit(3)
class DictForward(Model):
    def forward(self, images): return {"scores": 1}
class NoneForward(Model):
    def forward(self, images): return None
class TupleForward(Model):
    def forward(self, images): return (super().forward(images), None)
class Parameterless(nn.Module):
    def forward(self, images): return images
def no_model(): return None

def rule_raises(k): raise LookupError("no factor")
def rule_exits(k): sys.exit(3)
def rule_none(k): return None
def rule_text(k): return "2"
def rule_true(k): return True
def rule_negative(k): return -1.0
def rule_nan(k): return float("nan")
def rule_of_two(k, other): return 1.0
RULE = 3

def no_optimizer(params, lr): return None
def exiting_optimizer(params, lr): sys.exit(3)
def no_schedule(warmup=0): return None
def raising_schedule(warmup=0): raise RuntimeError("no schedule")

def no_question(design): return None
def raising_question(design): raise RuntimeError("no question")
def exiting_question(design): sys.exit(3)
class Question:
    def __init__(self, design): pass
    def conclude(self, records): return None
class NoneTrials(Question):
    def trials(self, records): return None
class NoTrials(Question):
    def trials(self, records): return []
class WrongTrials(Question):
    def trials(self, records): return [1, 2]
class RaisingTrials(Question):
    def trials(self, records): raise RuntimeError("no trials")
class HalfQuestion:
    def __init__(self, design): pass
    def trials(self, records): return []
class RaisingMeasurement:
    def __init__(self, design): pass
    def announce(self, console, cluster): raise RuntimeError("nothing to announce")
    def measure(self, gangs, study): yield {}
    def report(self, console, rows, study, cluster, code): return 0

def raising_column(arm): raise RuntimeError("no column")
def exiting_column(arm): sys.exit(3)
def list_column(arm): return [1]
COLUMN = 3
"""

GROUPS = {  # group -> names in OWN, each of which gets a file
    "dataset": ["NoneData", "RaisingData", "ExitingData", "TupleData", "HollowData", "EmptyData", "UnloadableData"],
    "model": [
        *("RaisingModel", "ExitingModel", "ExitingForward", "DictForward", "NoneForward", "TupleForward"),
        *("Parameterless", "no_model"),
    ],
    "optimizer": ["no_optimizer", "exiting_optimizer"],
    "schedule": ["no_schedule", "raising_schedule"],
    "experiment": [
        *("no_question", "raising_question", "exiting_question", "NoneTrials", "NoTrials", "WrongTrials"),
        *("RaisingTrials", "HalfQuestion", "RaisingMeasurement"),
    ],
}

# Folders for --config-dir with one file each that cannot be used.
CONFIG_DIRS = {
    "bom": "\ufeff# @package _global_\nseeds: [0]\n",
    "misspelt": "# @package _global_\nseds: [0]\n",
    "tabs": "# @package _global_\nworkload:\n\tname: x\n",
    "list": "- 1\n- 2\n",
    "text": "just text\n",
    "null_seeds": "# @package _global_\nseeds: null\n",
    "null_workload": "# @package _global_\nworkload: null\n",
    "null_target": "# @package _global_\nworkload: {target: null}\n",
    "null_question": "# @package _global_\nquestion: null\n",
    "wrong_type": "# @package _global_\nworkload: {base_lr: fast}\n",
    "no_package": "seeds: [0]\n",
    "bad_default": "# @package _global_\ndefaults:\n  - override /model: nope\n",
    "interpolated": "# @package _global_\nquestion: {_target_: experiments.tbs_sweep.TbsSweep}\nstudy: ${nowhere}\n",
    "duplicate": "# @package _global_\nseeds: [0]\nseeds: [1]\n",
}


def write_project(folder: Path) -> None:
    """Fill an existing folder with all of it."""
    files = {f"{name}.py": text for name, text in FAIL_ON_IMPORT.items()} | {"own.py": OWN}
    for group, names in GROUPS.items():
        for name in names:
            target = f"_target_: own.{name}\n"
            text = {
                "experiment": f"# @package _global_\nquestion:\n  {target}",
                "schedule": f"{target}warmup: {{examples: 0}}\n",
            }
            files[f"conf/{group}/{name}.yaml"] = text.get(group, target)
    files |= {f"conf_{name}/experiment/{name}.yaml": text for name, text in CONFIG_DIRS.items()}
    files["conf_taken/model/mlp.yaml"] = "_target_: own.Model\n"
    files |= {"file.txt": "", "empty.json": "{}", "list.json": "[1]", "bad.json": "not json"}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "conf_utf16" / "experiment").mkdir(parents=True)
    (folder / "conf_utf16" / "experiment" / "utf16.yaml").write_text("seeds: [0]\n", encoding="utf-16")
    (folder / "empty").mkdir()
