"""Makes the protobuf stubs and the cffi declarations, then builds as pyproject.toml says."""
import pathlib
import sys

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import generate  # noqa: E402


class BuildPy(build_py):
    def run(self):
        generate.main()
        super().run()


setup(cmdclass={"build_py": BuildPy})
