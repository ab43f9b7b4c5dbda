import pytest
from tiny_project import write_project


@pytest.fixture
def root(tmp_path):
    return write_project(tmp_path)
