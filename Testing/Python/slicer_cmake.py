"""A ``find_package(Slicer)`` for machines without Slicer: enough to build and install an extension of Python files.

Its macros do what Slicer 5.12's and CTK's do to files, quirks included: scripts and resources are copied into the
build tree one by one, and what is installed is the *folder* of the build tree.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SCRIPTED_MODULES = "lib/Slicer-5.12/qt-scripted-modules"

_CONFIG = """
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake")
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "SCRIPTED_MODULES")
"""

_USE_FILE = """
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MODULE "WITH_GENERIC_TESTS;WITH_SUBDIR" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MODULE_UNPARSED_ARGUMENTS OR NOT MODULE_NAME)
    message(FATAL_ERROR "slicerMacroBuildScriptedModule was given ${ARGN}")
  endif()
  set(destination "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
  set(installed "${destination}/")
  if(MODULE_WITH_SUBDIR)
    get_filename_component(folder "${CMAKE_CURRENT_SOURCE_DIR}" NAME)
    string(APPEND destination "/${folder}")
    set(installed "${destination}")
  endif()
  set(copies)
  foreach(file IN LISTS MODULE_SCRIPTS MODULE_RESOURCES)
    set(source "${CMAKE_CURRENT_SOURCE_DIR}/${file}")
    if(NOT EXISTS "${source}" OR IS_DIRECTORY "${source}")
      message(FATAL_ERROR "${MODULE_NAME} lists a file that isn't there: ${file}")
    endif()
    add_custom_command(OUTPUT "${destination}/${file}" DEPENDS "${source}"
      COMMAND "${CMAKE_COMMAND}" -E copy "${source}" "${destination}/${file}" VERBATIM)
    list(APPEND copies "${destination}/${file}")
  endforeach()
  add_custom_target(Copy${MODULE_NAME} ALL DEPENDS ${copies})
  install(DIRECTORY "${installed}" DESTINATION "${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
endfunction()

function(slicer_add_python_unittest)
  cmake_parse_arguments(UNITTEST "" "SCRIPT;TESTNAME_PREFIX" "SLICER_ARGS" ${ARGN})
  if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${UNITTEST_SCRIPT}")
    message(FATAL_ERROR "There is no test ${UNITTEST_SCRIPT}")
  endif()
endfunction()
"""


def install_extension(source: Path, folder: Path) -> Path:
    """Configure, build and install the extension; returns the installed folder of scripted modules.

    Parameters
    ----------
    source : Path
        The extension's sources.
    folder : Path
        An empty folder for the stand-in, the build tree and what is installed.
    """
    slicer, build, installed = folder / "Slicer", folder / "build", folder / "installed"
    slicer.mkdir()
    (slicer / "SlicerConfig.cmake").write_text(_CONFIG.replace("SCRIPTED_MODULES", SCRIPTED_MODULES), encoding="utf-8")
    (slicer / "UseSlicer.cmake").write_text(_USE_FILE, encoding="utf-8")
    (slicer / "Nothing.cmake").write_text("", encoding="utf-8")

    # The extension compiles nothing, and a machine that only tests it needs no compiler.
    compilers = [
        f"-DCMAKE_{language}_COMPILER{setting}"
        for language in ("C", "CXX")
        for setting in (f"={sys.executable}", "_FORCED=ON", "_ID_RUN=ON")
    ]
    options = ["-G", "Unix Makefiles", f"-DSlicer_DIR={slicer}", "-DBUILD_TESTING=ON", *compilers]
    _cmake("-S", source, "-B", build, *options)
    _cmake("--build", build)
    _cmake("--install", build, "--prefix", installed)
    return installed / SCRIPTED_MODULES


def _cmake(*arguments: object) -> None:
    # The cmake package's own first: a system's may be older than what Slicer asks for.
    cmake = shutil.which("cmake", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    result = subprocess.run([cmake, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
