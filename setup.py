"""Builds one extension module for each cext/**/*.pyx; the module name is the file's path (nothing to register).

Build modes, chosen by the environment variable BASCULE_BUILD:
  release (default)   -O3
  debug               -O1 -g, live-object counting and structural assertions (BASCULE_DEBUG=1 in C)
  asan                debug, under AddressSanitizer and UndefinedBehaviorSanitizer
Generated C goes to build/cython-<mode>, never beside the sources.

The Python sources are compiled to bytecode too: where Python may not write it (PYTHONDONTWRITEBYTECODE, a read-only
directory), every start of the three processes would compile them again, 90 ms of CPU.
"""

import compileall
import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

MODE = os.environ.get("BASCULE_BUILD", "release")
FLAGS = {
    "release": (["-O3", "-fno-plt", "-fno-semantic-interposition", "-DBASCULE_DEBUG=0"], []),
    "debug": (["-O1", "-g", "-fno-omit-frame-pointer", "-DBASCULE_DEBUG=1"], []),
    "asan": (
        ["-O1", "-g", "-fno-omit-frame-pointer", "-DBASCULE_DEBUG=1", "-fsanitize=address,undefined"],
        ["-fsanitize=address,undefined"],
    ),
}
if MODE not in FLAGS:
    raise SystemExit(f"BASCULE_BUILD={MODE!r}: use one of {', '.join(FLAGS)}")
compile_args, link_args = FLAGS[MODE]
WARNINGS = [
    "-Wall",
    "-Wno-unused-function",
    "-Wno-unused-but-set-variable",
    "-Wno-maybe-uninitialized",
    "-Wno-sign-compare",
]

extensions = [
    Extension(
        ".".join(path.relative_to("cext").with_suffix("").parts),
        [str(path)],
        include_dirs=["cext"],
        extra_compile_args=[*compile_args, *WARNINGS],
        extra_link_args=link_args,
    )
    for path in sorted(Path("cext").rglob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        include_path=["cext"],
        build_dir=f"build/cython-{MODE}",
        nthreads=os.cpu_count() or 1,
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": True,
            "legacy_implicit_noexcept": False,
        },
    )
    if extensions
    else [],
)

compileall.compile_dir("src", quiet=1)
