//! The manifests and container files, read as text: what an operator may rely on, and whether they agree with
//! the settings, fields and version in the code. These tests need no cluster.

mod files;

mod base;
mod deployment;
mod access;
mod network;
mod crd;
mod images;
mod overlay;
