//! The manifests and container files, read as text: what they promise to an operator, and that
//! they agree with the settings, fields and version that the code knows. Needs no cluster.

mod files;

mod base;
mod deployment;
mod access;
mod network;
mod crd;
mod images;
mod overlay;
