// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/rope_v16.inc"
