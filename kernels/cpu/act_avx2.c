// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/act_v16.inc"
