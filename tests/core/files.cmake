# SPDX-License-Identifier: Apache-2.0
rekindle_test(core_digest_test SOURCES digest_test.cpp LINK rekindle::core)
rekindle_test(core_file_system_test SOURCES file_system_test.cpp LINK rekindle::core)
rekindle_test(core_json_test SOURCES json_test.cpp LINK rekindle::core nlohmann_json::nlohmann_json)
rekindle_test(core_names_test SOURCES names_test.cpp LINK rekindle::core)
rekindle_test(core_safetensors_test SOURCES safetensors_test.cpp LINK rekindle::core)
