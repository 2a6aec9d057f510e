//! These tests read the manifests and container files as text. They check what an operator may rely on, and
//! whether the files agree with the settings, fields and version in the code. They need no cluster.

mod files;

mod base;
mod deployment;
mod access;
mod network;
mod crd;
mod images;
mod overlay;
