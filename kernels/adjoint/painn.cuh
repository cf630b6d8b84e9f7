// What a PaiNN's kernels are compiled for: the type of the network and its number of features.
#pragma once
#include "common.cuh"

using real = MLFF_REAL;
constexpr u32 F = MLFF_FEATURES;  // padded to a multiple of 16
