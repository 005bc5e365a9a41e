"""The native extensions and their flags; everything else is in pyproject.toml."""

import os
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

compile_args = ["-O3", "-g1", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wno-unused-parameter"]
if os.environ.get("RLOG_WERROR"):
    compile_args.append("-Werror")

EXTENSIONS = {
    "rlog._core": ["rlog/_core.pyx"],
    "rlog.wire.kafka._hot": ["rlog/wire/kafka/_hot.pyx"],
}

setup(
    ext_modules=cythonize(
        [
            Extension(
                name,
                sources,
                depends=glob("rlog/native/*"),
                extra_compile_args=compile_args,
                libraries=["pthread"],
            )
            for name, sources in EXTENSIONS.items()
        ],
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": True,
        },
    )
)
