// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/norm_v16.inc"
