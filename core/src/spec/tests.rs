//! Every rule of a function's description, on both sides of every bound.
