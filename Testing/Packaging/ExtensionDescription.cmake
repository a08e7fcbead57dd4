# Checks and writes the description that Slicer's packaging sends to the extensions server (see SlicerConfig.cmake).

if(PROJECT_NAME MATCHES "^Slicer")
  message(FATAL_ERROR "An extension's name may not start with 'Slicer': ${PROJECT_NAME}")
endif()

set(description "name ${PROJECT_NAME}\n")
foreach(key HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  set(value "${EXTENSION_${key}}")
  if(value STREQUAL "")
    message(FATAL_ERROR "EXTENSION_${key} is not set")
  endif()
  # A list (several arguments to set()) would reach the server with semicolons in it.
  if(value MATCHES ";" OR value MATCHES "\n")
    message(FATAL_ERROR "EXTENSION_${key} must be one quoted line")
  endif()
  string(TOLOWER "${key}" name)
  string(APPEND description "${name} ${value}\n")
endforeach()

get_property(tests GLOBAL PROPERTY HYPERREG_UNIT_TESTS)
string(APPEND description "tests ${tests}\n")
file(WRITE "${CMAKE_BINARY_DIR}/${PROJECT_NAME}.description.txt" "${description}")
