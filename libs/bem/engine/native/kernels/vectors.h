// Vectors of 16 lanes, whatever registers the processor has: loads, stores, arithmetic, sums over
// lanes, and tiles of products. The build names the variant; all variants give the same bits.
#pragma once

#ifndef BEM_VECTORS
#error "define BEM_VECTORS as the header of the variant"
#endif

#include BEM_VECTORS
