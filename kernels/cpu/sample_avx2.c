// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/sample_v16.inc"
