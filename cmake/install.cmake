# SPDX-License-Identifier: Apache-2.0
# What `cmake --install build --prefix=DIR` puts where: bin/neap, the library with its header,
# pkg-config and CMake files, and in share/neap what the program reads. The tree can be moved: all of it
# finds the rest from where it lies. Needs at run time the Debian packages of the launcher's
# run_packages without the compilers.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

file(RELATIVE_PATH TO_LIBRARY ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
set_target_properties(neap PROPERTIES INSTALL_RPATH $ORIGIN/${TO_LIBRARY})
set(NEAP_SHARE ${CMAKE_INSTALL_DATADIR}/neap)

install(TARGETS neap RUNTIME)
install(TARGETS libneap EXPORT NeapTargets LIBRARY PUBLIC_HEADER)
install(FILES ${CMAKE_BINARY_DIR}/neap.cdef LICENSE CITATION.cff DESTINATION ${NEAP_SHARE})
install(DIRECTORY lua experiments DESTINATION ${NEAP_SHARE} PATTERN __pycache__ EXCLUDE)
# The Python package, for PYTHONPATH; pip install . has the whole tree inside the package.
install(DIRECTORY python/neap DESTINATION ${NEAP_SHARE}/python PATTERN __pycache__ EXCLUDE)

# For programs in C: pkg-config and find_package.
file(RELATIVE_PATH PC_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(cmake/neap.pc.in neap.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/neap.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
set(NEAP_CMAKE ${CMAKE_INSTALL_LIBDIR}/cmake/Neap)
install(EXPORT NeapTargets NAMESPACE Neap:: FILE NeapConfig.cmake DESTINATION ${NEAP_CMAKE})
write_basic_package_version_file(NeapConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/NeapConfigVersion.cmake DESTINATION ${NEAP_CMAKE})

# The manual's page and completions are what the program prints.
install(CODE "
  foreach(page \"manual>neap.1\" \"completion bash>neap.bash\" \"completion zsh>_neap\"
          \"completion fish>neap.fish\")
    execute_process(COMMAND sh -c \"'${CMAKE_BINARY_DIR}/neap' \${page}\"
      WORKING_DIRECTORY \"${CMAKE_BINARY_DIR}\" COMMAND_ERROR_IS_FATAL ANY)
  endforeach()")
install(FILES ${CMAKE_BINARY_DIR}/neap.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${CMAKE_BINARY_DIR}/neap.bash RENAME neap
  DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES ${CMAKE_BINARY_DIR}/_neap DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
install(FILES ${CMAKE_BINARY_DIR}/neap.fish
  DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
