// SPDX-License-Identifier: Apache-2.0
#pragma once

// One binary for every x86-64: the loader picks the widest version of a function that the processor has. Not
// under a sanitizer, whose runtime is not up yet when the choice is made.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__) && \
    !defined(__SANITIZE_ADDRESS__)
#define REKINDLE_WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define REKINDLE_WIDEST
#endif
