"""The archive of older studies, unpacked once to read and copied to work on."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from harness.record.files import write_json

ARCHIVE = Path(__file__).with_name("old_studies.tar.xz")


@pytest.fixture(scope="session")
def as_it_was(tmp_path_factory) -> Path:
    """The archive's outputs/, which no test changes."""
    place = tmp_path_factory.mktemp("old_studies")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(place, filter="data")
    return place / "outputs"


@pytest.fixture
def outputs(as_it_was, tmp_path, monkeypatch) -> Path:
    """A copy to work on, whose drivers are gone for good."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(as_it_was, tmp_path / "outputs")
    for lease in tmp_path.glob("outputs/*/*/leases/*.json"):
        write_json(lease, {**json.loads(lease.read_text()), "host": "gone", "heartbeat": 0.0})
    return tmp_path / "outputs"
