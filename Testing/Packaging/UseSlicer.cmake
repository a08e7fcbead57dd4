# The commands for scripted modules (see SlicerConfig.cmake).

option(BUILD_TESTING "Register the modules' tests" ON)
enable_testing()

# Names of `names` that are no file relative to the current source folder.
function(_find_missing result)
  set(missing)
  foreach(name IN LISTS ARGN)
    get_filename_component(place "${name}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
    if(NOT EXISTS "${place}" OR IS_DIRECTORY "${place}")
      list(APPEND missing "${name}")
    endif()
  endforeach()
  set(${result} "${missing}" PARENT_SCOPE)
endfunction()

# Copies scripts and resources, with their relative paths, to the build tree, and installs them from there.
# As in CTK, a script's name without ".py" gets it.
function(ctkMacroCompilePythonScript)
  cmake_parse_arguments(PARSE_ARGV 0 given "NO_INSTALL_SUBDIR" "TARGET_NAME;DESTINATION_DIR;INSTALL_DIR" "SCRIPTS;RESOURCES")
  if(given_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "Unknown keywords: ${given_UNPARSED_ARGUMENTS}")
  endif()
  foreach(needed TARGET_NAME SCRIPTS DESTINATION_DIR INSTALL_DIR)
    if(NOT given_${needed})
      message(FATAL_ERROR "${needed} is mandatory")
    endif()
  endforeach()

  set(sources)
  foreach(script IN LISTS given_SCRIPTS)
    get_filename_component(ending "${script}" EXT)
    if(NOT ending MATCHES "py")
      set(script "${script}.py")
    endif()
    list(APPEND sources "${script}")
  endforeach()
  list(APPEND sources ${given_RESOURCES})
  _find_missing(missing ${sources})
  if(missing)
    message(FATAL_ERROR "${given_TARGET_NAME}: no such files: ${missing}")
  endif()

  set(copies)
  foreach(source IN LISTS sources)
    if(IS_ABSOLUTE "${source}")
      message(FATAL_ERROR "${given_TARGET_NAME}: name '${source}' relative to the folder of the CMakeLists.txt")
    endif()
    set(copy "${given_DESTINATION_DIR}/${source}")
    add_custom_command(
      OUTPUT "${copy}"
      COMMAND "${CMAKE_COMMAND}" -E copy "${CMAKE_CURRENT_SOURCE_DIR}/${source}" "${copy}"
      DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${source}"
      VERBATIM
      )
    list(APPEND copies "${copy}")
  endforeach()
  add_custom_target("Copy${given_TARGET_NAME}Files" ALL DEPENDS ${copies})

  set(from "${given_DESTINATION_DIR}")
  if(given_NO_INSTALL_SUBDIR)
    string(APPEND from "/")
  endif()
  install(DIRECTORY "${from}" DESTINATION "${given_INSTALL_DIR}" COMPONENT RuntimeLibraries)
endfunction()

function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(PARSE_ARGV 0 given "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES")
  if(given_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "Unknown keywords: ${given_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT given_NAME)
    message(FATAL_ERROR "NAME is mandatory")
  endif()
  if(given_WITH_SUBDIR)
    message(FATAL_ERROR "The stand-in does not know WITH_SUBDIR")
  endif()
  ctkMacroCompilePythonScript(
    TARGET_NAME "${given_NAME}"
    SCRIPTS "${given_SCRIPTS}"
    RESOURCES "${given_RESOURCES}"
    DESTINATION_DIR "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}"
    INSTALL_DIR "${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}"
    NO_INSTALL_SUBDIR
    )
endfunction()

# Slicer starts itself with the script; here the name is only checked and recorded for the packaging test.
function(slicer_add_python_unittest)
  cmake_parse_arguments(PARSE_ARGV 0 given "" "SCRIPT;TESTNAME_PREFIX" "SLICER_ARGS")
  _find_missing(missing "${given_SCRIPT}")
  if(NOT given_SCRIPT OR missing)
    message(FATAL_ERROR "slicer_add_python_unittest: no such SCRIPT: '${given_SCRIPT}'")
  endif()
  set_property(GLOBAL APPEND PROPERTY HYPERREG_UNIT_TESTS "${given_SCRIPT}")
endfunction()
