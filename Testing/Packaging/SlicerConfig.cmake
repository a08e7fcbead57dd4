# A small stand-in for the CMake package of a 3D Slicer build tree, for `find_package(Slicer)`.
#
# It lets the extension be configured, built and installed without Slicer, in the layout that Slicer gives it, and refuses
# what Slicer refuses: unknown keywords, files that do not exist, missing or malformed descriptions.
# It knows only what this extension uses. The documentation of Slicer's own package is the reference.

set(Slicer_VERSION_MAJOR 5)
set(Slicer_VERSION_MINOR 12)
set(Slicer_USE_PYTHONQT ON)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "lib/Slicer-${Slicer_VERSION_MAJOR}.${Slicer_VERSION_MINOR}/qt-scripted-modules")
set(Slicer_INSTALL_ROOT "./")
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR "${Slicer_INSTALL_ROOT}${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")

set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/ExtensionDescription.cmake")
set(Slicer_FOUND TRUE)
