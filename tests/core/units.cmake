# SPDX-License-Identifier: Apache-2.0
rekindle_test(core_units_test SOURCES units_test.cpp LINK rekindle::core)
